#include "engine/cli/byte_size.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace sluice::cli {
namespace {

constexpr double kKibi = 1024;
constexpr std::array<std::pair<std::string_view, double>, 9> kUnits{{
    {"", 1},
    {"kB", 1e3},
    {"MB", 1e6},
    {"GB", 1e9},
    {"TB", 1e12},
    {"KiB", kKibi},
    {"MiB", kKibi* kKibi},
    {"GiB", kKibi* kKibi* kKibi},
    {"TiB", kKibi* kKibi* kKibi* kKibi},
}};
constexpr double kMostBytes = 9e18;
constexpr size_t kMostDigits = 24;

}  // namespace

std::optional<int64_t> parse_byte_size(const std::string& text) {
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string number = text.substr(0, digits);
  const std::string unit = digits == std::string::npos ? "" : text.substr(digits);
  const size_t points = static_cast<size_t>(std::count(number.begin(), number.end(), '.'));
  if (number.size() <= points || number.size() > kMostDigits || points > 1) {
    return {};
  }
  for (const auto& [name, factor] : kUnits) {
    if (unit == name) {
      const double bytes = std::round(std::stod(number) * factor);
      return bytes >= 1 && bytes <= kMostBytes ? std::optional(static_cast<int64_t>(bytes)) : std::nullopt;
    }
  }
  return {};
}

CLI::Option* take_byte_size(CLI::Option* option) {
  const auto translate = [](std::string& text) -> std::string {
    const std::optional<int64_t> bytes = parse_byte_size(text);
    if (!bytes.has_value()) {
      return "expected a size such as 24GB or 22.5GiB, found " + text;
    }
    text = std::to_string(*bytes);
    return {};
  };
  return option->transform(CLI::Validator(translate, ""))->type_name("SIZE");
}

}  // namespace sluice::cli
