// A regular expression finds the parts; std::from_chars their values.
#include "engine/cli/value_list.h"

#include <charconv>
#include <regex>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr size_t kMostValues = 1000;

[[noreturn]] void refuse(const std::string& flag, const std::string& expected, const std::string& found) {
  throw Error(flag, expected, found);
}

int64_t value_of(const std::string& flag, const std::string& digits) {
  int64_t value = 0;
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (failure != std::errc() || value > INT32_MAX) refuse(flag, "numbers below 2^31", digits);
  return value;
}

// first-last, first-last+step, first-last*factor; or first alone.
void add_range(std::vector<int64_t>& values, const std::string& flag, const std::string& part,
               const std::smatch& match) {
  const int64_t first = value_of(flag, match[1]);
  const int64_t last = match[2].matched ? value_of(flag, match[2]) : first;
  const bool multiply = match[3].matched && match[3] == "*";
  const int64_t step = match[4].matched ? value_of(flag, match[4]) : 1;
  const bool ends = multiply ? first > 0 && step > 1 : step > 0;
  if (last < first || !ends) refuse(flag, "a range that runs upwards", part);
  for (int64_t value = first; value <= last; value = multiply ? value * step : value + step) {
    if (values.size() == kMostValues) refuse(flag, "at most 1000 values", part);
    values.push_back(value);
  }
}

}  // namespace

std::vector<int64_t> parse_value_list(const std::string& flag, const std::string& text) {
  static const std::regex pattern("([0-9]{1,18})(?:-([0-9]{1,18})(?:([+*])([0-9]{1,18}))?)?");
  std::vector<int64_t> values;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, comma - begin);
    std::smatch match;
    if (!std::regex_match(part, match, pattern)) refuse(flag, "a list such as 512,1024 or 1-16*2", text);
    add_range(values, flag, part, match);
    begin = comma + 1;
  }
  return values;
}

}  // namespace sluice::cli
