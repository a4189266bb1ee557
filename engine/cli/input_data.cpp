// Reads texts and id lists.
#include "engine/cli/input_data.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

#include "engine/cli/npy.h"
#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice::cli {
namespace {

constexpr std::string_view kBlank = " \t\r\n";
constexpr std::string_view kSeparators = ", \t\r\n";

std::string id_range(int64_t vocab_size) {
  return fmt::format("token ids from 0 to {}", vocab_size - 1);
}

/// The words of the list; surrounding white space and one pair of brackets do not count.
std::string_view without_brackets(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) {
    return {};
  }
  text = text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
  return text.size() >= 2 && text.front() == '[' && text.back() == ']' ? text.substr(1, text.size() - 2)
                                                                       : text;
}

int32_t parse_id(std::string_view word, int64_t vocab_size, const std::string& source) {
  int64_t id = -1;
  const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), id);
  if (failure != std::errc() || end != word.data() + word.size() || id < 0 || id >= vocab_size) {
    throw Error(source, id_range(vocab_size), in_quotes(word));
  }
  return static_cast<int32_t>(id);
}

}  // namespace

std::string read_all(const std::string& path) {
  const auto all_of = [](std::istream& stream, const std::string& name) {
    std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (stream.bad()) {
      throw Error(name, "a readable file", "an error while reading");
    }
    return text;
  };
  if (path == "-") {
    return all_of(std::cin, "standard input");
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw Error(path, "a file", "a directory");
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw Error(path, "a readable file", system_error_text(errno));
  }
  return all_of(stream, path);
}

std::vector<int32_t> parse_ids(std::string_view text, int64_t vocab_size, const std::string& source) {
  std::string_view rest = without_brackets(text);
  std::vector<int32_t> ids;
  for (size_t begin = rest.find_first_not_of(kSeparators); begin != std::string_view::npos;
       begin = rest.find_first_not_of(kSeparators)) {
    rest.remove_prefix(begin);
    const std::string_view word = rest.substr(0, rest.find_first_of(kSeparators));
    ids.push_back(parse_id(word, vocab_size, source));
    rest.remove_prefix(word.size());
  }
  if (ids.empty()) {
    throw Error(source, id_range(vocab_size), "an empty list");
  }
  return ids;
}

std::vector<int32_t> read_ids(const std::string& path, int64_t vocab_size) {
  const std::string bytes = read_all(path);
  if (!is_npy(bytes)) {
    return parse_ids(bytes, vocab_size, path);
  }
  std::vector<int32_t> ids;
  for (const int64_t id : parse_npy_ids(bytes, path)) {
    if (id < 0 || id >= vocab_size) {
      throw Error(path, id_range(vocab_size), fmt::format("{}", id));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  if (ids.empty()) {
    throw Error(path, id_range(vocab_size), "an empty list");
  }
  return ids;
}

}  // namespace sluice::cli
