// std::from_chars reads them.
#include "engine/cli/whole_number.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

namespace sluice::cli {

std::optional<int64_t> parse_whole_number(const std::string& text) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, number);
  if (failure != std::errc() || rest != end) return std::nullopt;
  return number;
}

CLI::Option* take_whole_number(CLI::Option* option, int64_t least, int64_t most) {
  const auto check = [least, most](std::string& text) -> std::string {
    const std::optional<int64_t> number = parse_whole_number(text);
    if (!number || *number < least || *number > most) {
      return fmt::format("expected a whole number from {} to {}, found {}", least, most, text);
    }
    text = std::to_string(*number);  // without leading zeros, which CLI11 would take for octal digits
    return {};
  };
  return option->transform(CLI::Validator(check, ""))->type_name("N");
}

}  // namespace sluice::cli
