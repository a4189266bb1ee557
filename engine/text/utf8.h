// UTF-8, byte by byte: where a character ends, and where a text stops being valid.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace sluice {

enum class Utf8Status {
  kComplete,    // a whole character
  kInvalid,     // bytes that no continuation can make a character
  kIncomplete,  // the beginning of a character, cut off by the end of the bytes
};

struct Utf8Step {
  Utf8Status status;
  size_t length;  // bytes; of an invalid sequence its longest well-formed beginning, at least 1
};

/// What stands at the beginning of `bytes`, which is not empty. Surrogates, overlong forms and values beyond
/// U+10FFFF are invalid (Unicode Standard, table 3-7).
Utf8Step utf8_step(std::string_view bytes);

/// Offset of the first byte that is not part of a complete character; nothing when all are.
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// U+FFFD, which stands for what is no character.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace sluice
