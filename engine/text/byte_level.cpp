// The alphabet of GPT-2's byte-level vocabularies, as tables.
#include "engine/text/byte_level.h"

#include <array>

namespace sluice {
namespace {

constexpr uint32_t kFirstStandIn = 0x100;
// 188 bytes stand for themselves, 68 need a stand-in.
constexpr uint32_t kEnd = kFirstStandIn + 68;
constexpr int16_t kNoByte = -1;

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<uint16_t, 256> character{};  // byte to code point
  std::array<int16_t, kEnd> byte{};       // code point to byte
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(kNoByte);
  uint32_t next = kFirstStandIn;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t character = stands_for_itself(byte) ? byte : next++;
    alphabet.character[byte] = static_cast<uint16_t>(character);
    alphabet.byte[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.character[0xAD] == kEnd - 1);

// Every character of the alphabet has one or two bytes in UTF-8.
struct Character {
  uint32_t code;
  size_t length;  // 0 = not of that kind
};

Character first_character(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {first, 1};
  if (first < 0xC2 || first > 0xDF || text.size() < 2) return {0, 0};
  const auto second = static_cast<uint8_t>(text[1]);
  if ((second & 0xC0U) != 0x80U) return {0, 0};
  return {((first & 0x1FU) << 6U) | (second & 0x3FU), 2};
}

}  // namespace

std::string byte_level_character(uint8_t byte) {
  const uint32_t code = kAlphabet.character[byte];
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

std::optional<std::string> byte_level_decode(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    if (character.length == 0 || character.code >= kEnd) return std::nullopt;
    const int16_t byte = kAlphabet.byte[character.code];
    if (byte == kNoByte) return std::nullopt;
    bytes += static_cast<char>(byte);
    text.remove_prefix(character.length);
  }
  return bytes;
}

}  // namespace sluice
