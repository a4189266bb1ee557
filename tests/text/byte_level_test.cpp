// The byte-level alphabet: facts known from vocabularies in use, and its inverse.
#include "engine/text/byte_level.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

TEST(ByteLevel, KnownCharacters) {
  EXPECT_EQ(byte_level_character('A'), "A");
  EXPECT_EQ(byte_level_character(' '), "Ġ");
  EXPECT_EQ(byte_level_character('\n'), "Ċ");
  EXPECT_EQ(byte_level_character('\t'), "ĉ");
  EXPECT_EQ(byte_level_character(0x00), "Ā");
  EXPECT_EQ(byte_level_character(0x7F), "ġ");
  EXPECT_EQ(byte_level_character(0xA0), "ł");
  EXPECT_EQ(byte_level_character(0xAD), "Ń");
  EXPECT_EQ(byte_level_character(0xE4), "ä");
}

TEST(ByteLevel, OneCharacterForEachByte) {
  std::set<std::string> seen;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const std::string character = byte_level_character(static_cast<uint8_t>(byte));
    EXPECT_TRUE(seen.insert(character).second) << byte;
    EXPECT_EQ(byte_level_decode(character), std::string(1, static_cast<char>(byte)));
  }
}

TEST(ByteLevel, TextOutsideTheAlphabetIsRefused) {
  EXPECT_EQ(byte_level_decode("Ġä½łå¥½"), " 你好");
  EXPECT_EQ(byte_level_decode(""), "");
  EXPECT_EQ(byte_level_decode("a b"), std::nullopt);
  EXPECT_EQ(byte_level_decode("a中"), std::nullopt);
  EXPECT_EQ(byte_level_decode("\u0144"), std::nullopt);  // the first character after the alphabet
  EXPECT_EQ(byte_level_decode("\u00AD"), std::nullopt);
  EXPECT_EQ(byte_level_decode("\xC4"), std::nullopt);  // cut off
  EXPECT_EQ(byte_level_decode("\xC4("), std::nullopt);
}

}  // namespace
}  // namespace sluice
