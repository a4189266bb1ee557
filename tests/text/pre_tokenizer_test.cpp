// Splitting into words: cases worked out by hand from the three patterns, and inputs that tempt a regex
// engine.
#include "engine/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>

#include "support/random_tensors.h"

namespace sluice {
namespace {

using Pieces = std::vector<std::string_view>;

std::string joined(const Pieces& pieces) {
  std::string text;
  for (const std::string_view piece : pieces) text += piece;
  return text;
}

TEST(PreTokenizer, NothingGivesNothing) {
  EXPECT_TRUE(PreTokenizer().split("").empty());
}

TEST(PreTokenizer, WordsTakeOneLeadingSpace) {
  const PreTokenizer splitter;
  EXPECT_EQ(splitter.split("Hello, world!"), (Pieces{"Hello", ",", " world", "!"}));
  EXPECT_EQ(splitter.split("a  b"), (Pieces{"a", " ", " b"}));
  EXPECT_EQ(splitter.split("it's"), (Pieces{"it", "'s"}));
  EXPECT_EQ(splitter.split("\tx"), (Pieces{"\tx"}));
  EXPECT_EQ(splitter.split(" ?!\n\nx"), (Pieces{" ?!\n\n", "x"}));
}

TEST(PreTokenizer, DigitsComeInThreesFromTheLeft) {
  const PreTokenizer splitter;
  EXPECT_EQ(splitter.split("12345678"), (Pieces{"123", "456", "78"}));
  EXPECT_EQ(splitter.split("a1b"), (Pieces{"a", "1", "b"}));
  // Any number is cut out first, so the space before it stands alone.
  EXPECT_EQ(splitter.split("x 42"), (Pieces{"x", " ", "42"}));
  EXPECT_EQ(splitter.split("\u0664\u00BD\u2167\u4E94"), (Pieces{"\u0664\u00BD\u2167", "\u4E94"}));
}

TEST(PreTokenizer, HanAndKanaStandApart) {
  const PreTokenizer splitter;
  EXPECT_EQ(splitter.split("ab中文かな カタ。x"), (Pieces{"ab", "中文かな", " ", "カタ", "。", "x"}));
  // U+9FA5 is the last of the range; U+9FA6 is a letter like others.
  EXPECT_EQ(splitter.split("\u9FA5\u9FA6a"), (Pieces{"\u9FA5", "\u9FA6a"}));
}

TEST(PreTokenizer, WhiteSpaceRuns) {
  const PreTokenizer splitter;
  EXPECT_EQ(splitter.split(" \n "), (Pieces{" \n", " "}));
  EXPECT_EQ(splitter.split("a \r\n\r\n  b"), (Pieces{"a", " \r\n\r\n", " ", " b"}));
  EXPECT_EQ(splitter.split("   "), (Pieces{"   "}));
  EXPECT_EQ(splitter.split("a\u3000\u00A0b"), (Pieces{"a", "\u3000", "\u00A0b"}));
  EXPECT_EQ(splitter.split("\u0085\u2028."), (Pieces{"\u0085", "\u2028", "."}));
}

TEST(PreTokenizer, MongolianVowelSeparatorIsNoWhiteSpace) {
  const PreTokenizer splitter;
  EXPECT_EQ(splitter.split(" \u180E"), (Pieces{" ", "\u180E"}));
  EXPECT_EQ(splitter.split("  \u180E."), (Pieces{" ", " ", "\u180E", "."}));
  EXPECT_EQ(splitter.split("a\u180Eb"), (Pieces{"a", "\u180Eb"}));
  EXPECT_EQ(splitter.split("\u180E\n"), (Pieces{"\u180E", "\n"}));
}

TEST(PreTokenizer, UnmatchedCharactersStayTogether) {
  const PreTokenizer splitter;
  const std::string text("\x01\x02\0\x03.", 5);
  EXPECT_EQ(splitter.split(text), (Pieces{std::string_view(text).substr(0, 4), "."}));
}

TEST(PreTokenizer, PiecesAreTheText) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<std::string> characters = {"a",          "Z",    "0", "9", " ",  "\n", "\r",     "\t",
                                               ".",          "$",    "é", "́",  "中", "か", "\u180E", "\u3000",
                                               "\U0001F600", "\x01", "_", "'", "½",  "ж",  "\u200D", "ｱ"};
  const PreTokenizer splitter;
  for (int round = 0; round < 500; ++round) {
    std::string text;
    const int64_t length = random.integer(0, 40);
    for (int64_t i = 0; i < length; ++i) {
      text += characters[static_cast<size_t>(random.integer(0, static_cast<int64_t>(characters.size()) - 1))];
    }
    const Pieces pieces = splitter.split(text);
    EXPECT_EQ(joined(pieces), text);
    for (const std::string_view piece : pieces) EXPECT_FALSE(piece.empty());
  }
}

// Runs longer than PCRE2's default match limit of ten million steps; quadratic work would not end.
TEST(PreTokenizer, EndlessRuns) {
  const PreTokenizer splitter;
  std::string spaces;
  spaces.resize(12'000'000, ' ');
  EXPECT_EQ(splitter.split(spaces).size(), 1U);
  const std::string before_word = spaces + "x";
  EXPECT_EQ(splitter.split(before_word).size(), 2U);
  for (const std::string_view unit : {"a", "!", "\n", "\x01", "中", " \n", "\u0301"}) {
    std::string text;
    while (text.size() < 3'000'000) text += unit;
    EXPECT_EQ(splitter.split(text).size(), 1U) << "run of " << unit;
  }
}

TEST(PreTokenizer, MovesAlong) {
  PreTokenizer first;
  PreTokenizer second = std::move(first);
  EXPECT_EQ(second.split("a b").size(), 2U);
}

}  // namespace
}  // namespace sluice
