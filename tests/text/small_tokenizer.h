// A vocabulary that fits in one's head: the chat tokens, all bytes, and a few merges.
#pragma once

#include <string>
#include <vector>

#include "engine/text/byte_level.h"
#include "engine/text/tokenizer.h"

namespace sluice::testing {

inline constexpr int32_t kSmallBos = 0;
inline constexpr int32_t kSmallEos = 1;
inline constexpr int32_t kSmallPad = 2;
inline constexpr int32_t kSmallUser = 3;
inline constexpr int32_t kSmallAssistant = 4;
inline constexpr int32_t kSmallThink = 5;     // user-defined, as in DeepSeek-V3.2
inline constexpr int32_t kSmallThinkEnd = 6;  // likewise
inline constexpr int32_t kSmallFirstByte = 7;

/// Id of a byte's own token.
inline int32_t small_byte(char c) {
  return kSmallFirstByte + static_cast<int32_t>(static_cast<uint8_t>(c));
}

/// Merges in order: he, ll, hell, hello, Ġhello, bc, ab, abc (of "ab c").
inline TokenizerData small_tokenizer_data() {
  TokenizerData data;
  data.tokens = {"<｜begin▁of▁sentence｜>",
                 "<｜end▁of▁sentence｜>",
                 "<｜▁pad▁｜>",
                 "<｜User｜>",
                 "<｜Assistant｜>",
                 "<think>",
                 "</think>"};
  data.types.assign(5, TokenType::kControl);
  data.types.resize(7, TokenType::kUserDefined);
  for (uint32_t byte = 0; byte < 256; ++byte) {
    data.tokens.push_back(byte_level_character(static_cast<uint8_t>(byte)));
  }
  for (const char* merge : {"h e", "l l", "he ll", "hell o", "Ġ hello", "b c", "a b", "ab c"}) {
    const std::string text = merge;
    const size_t space = text.find(' ');
    data.merges.push_back(text);
    data.tokens.push_back(text.substr(0, space) + text.substr(space + 1));
  }
  data.types.resize(data.tokens.size(), TokenType::kNormal);
  data.bos = kSmallBos;
  data.eos = kSmallEos;
  data.pad = kSmallPad;
  return data;
}

inline Tokenizer small_tokenizer() {
  return {small_tokenizer_data(), "small"};
}

}  // namespace sluice::testing
