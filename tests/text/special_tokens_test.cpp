// Special tokens in a text: the leftmost, and of those the longest.
#include "engine/text/special_tokens.h"

#include <gtest/gtest.h>

#include "support/random_tensors.h"

namespace sluice {
namespace {

using Match = SpecialTokenFinder::Match;

bool same(const std::optional<Match>& a, const std::optional<Match>& b) {
  if (!a || !b) return a.has_value() == b.has_value();
  return a->begin == b->begin && a->length == b->length && a->id == b->id;
}

TEST(SpecialTokens, LeftmostThenLongest) {
  const SpecialTokenFinder finder({{"<a>", 1}, {"<a>b", 2}, {"<", 3}, {"bcd", 4}});
  EXPECT_TRUE(same(finder.find("x<a>", 0), Match{1, 3, 1}));
  EXPECT_TRUE(same(finder.find("<a>bcd", 0), Match{0, 4, 2}));
  EXPECT_TRUE(same(finder.find("<a>bcd", 1), Match{3, 3, 4}));
  EXPECT_TRUE(same(finder.find("<a", 0), Match{0, 1, 3}));
  EXPECT_TRUE(same(finder.find("abc", 0), std::nullopt));
  EXPECT_TRUE(same(finder.find("", 0), std::nullopt));
  EXPECT_TRUE(same(SpecialTokenFinder({}).find("<a>", 0), std::nullopt));
}

TEST(SpecialTokens, AgreesWithTryingEveryToken) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const auto word = [&](int64_t low, int64_t high) {
    std::string text;
    const int64_t length = random.integer(low, high);
    // One byte above 0x7F: order by unsigned bytes matters.
    for (int64_t i = 0; i < length; ++i) text += "ab\xC3"[random.integer(0, 2)];
    return text;
  };
  for (int round = 0; round < 500; ++round) {
    std::vector<SpecialToken> tokens;
    for (int32_t id = 0; id < 6; ++id) {
      const std::string text = word(1, 5);
      bool is_new = true;
      for (const SpecialToken& token : tokens) is_new = is_new && token.text != text;
      if (is_new) tokens.push_back({text, id});
    }
    const std::string text = word(0, 30);
    std::optional<Match> expected;
    for (size_t at = 0; at < text.size() && !expected; ++at) {
      for (const SpecialToken& token : tokens) {
        const bool fits = std::string_view(text).substr(at).starts_with(token.text);
        if (fits && (!expected || token.text.size() > expected->length)) {
          expected = Match{at, token.text.size(), token.id};
        }
      }
    }
    EXPECT_TRUE(same(SpecialTokenFinder(tokens).find(text, 0), expected)) << text;
  }
}

}  // namespace
}  // namespace sluice
