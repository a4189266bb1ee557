#include "quant/base/error.h"

#include <fmt/format.h>

#include <system_error>

namespace sluice {
namespace {

// Names and strings out of a hostile file may hold line breaks or terminal escapes; an error stays one line.
std::string one_line(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

Error::Error(std::string_view subject, std::string_view expected, std::string_view found)
    : std::runtime_error(one_line(fmt::format("{}: expected {}, found {}", subject, expected, found))),
      subject_(subject),
      expected_(expected),
      found_(found) {}

std::string system_error_text(int error_number) {
  return std::generic_category().message(error_number);
}

}  // namespace sluice
