// The printable alphabet that byte-level vocabularies are written in: one character for each of the 256
// bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// The UTF-8 text of a byte's character. Printable ASCII and Latin-1 stand for themselves; the others, in
/// order, are U+0100 and on: space is U+0120, newline U+010A.
std::string byte_level_character(uint8_t byte);

/// The bytes that `text` stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> byte_level_decode(std::string_view text);

}  // namespace sluice
