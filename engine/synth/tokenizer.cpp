// Words are enumerated by length, so that the beginning of every word is a token before it.
#include "engine/synth/tokenizer.h"

#include <array>
#include <cassert>
#include <string>
#include <string_view>

#include "engine/text/byte_level.h"

namespace sluice::synth {
namespace {

struct Marker {
  std::string_view text;
  TokenType type;
};

// The first three have the ids of DeepSeek-V3.2; the types are its own.
constexpr std::array<Marker, 7> kMarkers{{{"<｜begin▁of▁sentence｜>", TokenType::kControl},
                                          {"<｜end▁of▁sentence｜>", TokenType::kControl},
                                          {"<｜▁pad▁｜>", TokenType::kControl},
                                          {"<｜User｜>", TokenType::kControl},
                                          {"<｜Assistant｜>", TokenType::kControl},
                                          {"<think>", TokenType::kUserDefined},
                                          {"</think>", TokenType::kUserDefined}}};
static_assert(kMarkers.size() + 256 == kSmallestVocabulary);

void add(TokenizerData& data, std::string text, TokenType type) {
  data.tokens.push_back(std::move(text));
  data.types.push_back(type);
}

}  // namespace

TokenizerData make_tokenizer(int64_t vocab_size) {
  assert(vocab_size >= kSmallestVocabulary);
  const auto size = static_cast<size_t>(vocab_size);
  TokenizerData data;
  for (const Marker& marker : kMarkers) add(data, std::string(marker.text), marker.type);
  for (int byte = 0; byte < 256; ++byte) {
    add(data, byte_level_character(static_cast<uint8_t>(byte)), TokenType::kNormal);
  }
  std::vector<std::string> beginnings{byte_level_character(' ')};
  for (char letter = 'a'; letter <= 'z'; ++letter) beginnings.emplace_back(1, letter);
  // What is appended are the words one letter longer.
  for (size_t i = 0; data.tokens.size() < size; ++i) {
    const std::string beginning = beginnings[i];
    for (char letter = 'a'; letter <= 'z' && data.tokens.size() < size; ++letter) {
      data.merges.push_back(beginning + ' ' + letter);
      beginnings.push_back(beginning + letter);
      add(data, beginnings.back(), TokenType::kNormal);
    }
  }
  data.bos = 0;
  data.eos = 1;
  data.pad = 1;  // as DeepSeek's own files have it
  return data;
}

}  // namespace sluice::synth
