// Foreign text in an error message.
#include "quant/base/in_quotes.h"

#include <fmt/format.h>

namespace sluice {

std::string in_quotes(std::string_view text) {
  constexpr size_t kLongest = 60;
  if (text.size() <= kLongest) return fmt::format("\"{}\"", text);
  size_t length = kLongest;
  // Not inside a UTF-8 character: step back over continuation bytes.
  while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0U) == 0x80U) --length;
  return fmt::format("\"{}...\"", text.substr(0, length));
}

}  // namespace sluice
