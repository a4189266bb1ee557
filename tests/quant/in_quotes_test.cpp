// Foreign text in error messages: short, and never cut inside a character.
#include "quant/base/in_quotes.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

std::string repeated(const std::string& text, int64_t times) {
  std::string all;
  for (int64_t i = 0; i < times; ++i) all += text;
  return all;
}

TEST(InQuotes, ShortTextIsWhole) {
  EXPECT_EQ(in_quotes(""), "\"\"");
  EXPECT_EQ(in_quotes("a \"b\""), "\"a \"b\"\"");
  const std::string longest(60, 'x');
  EXPECT_EQ(in_quotes(longest), '"' + longest + '"');
}

TEST(InQuotes, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(in_quotes(std::string(1000000, 'x')), '"' + std::string(60, 'x') + "...\"");
  // Characters of 2, 3 and 4 bytes behind 0 to 3 bytes: only whole ones stay.
  for (const std::string character : {"\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x90\x8B"}) {
    for (int64_t before = 0; before < 4; ++before) {
      const std::string prefix(static_cast<size_t>(before), 'x');
      const int64_t whole = (60 - before) / static_cast<int64_t>(character.size());
      EXPECT_EQ(in_quotes(prefix + repeated(character, 100)),
                '"' + prefix + repeated(character, whole) + "...\"");
    }
  }
}

TEST(InQuotes, BytesThatAreNoTextAreCutToo) {
  EXPECT_EQ(in_quotes(std::string(100, '\x80')), "\"...\"");
}

}  // namespace
}  // namespace sluice
