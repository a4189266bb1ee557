// Made-up vocabularies go through the checks of a real one's.
#include "engine/synth/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "support/random_tensors.h"

namespace sluice::synth {
namespace {

constexpr int64_t kDeepSeekVocabulary = 129280;

TEST(SyntheticTokenizer, AnySizeIsValid) {
  for (const int64_t size :
       {kSmallestVocabulary, kSmallestVocabulary + 1, int64_t{512}, kDeepSeekVocabulary}) {
    const Tokenizer tokenizer(make_tokenizer(size), "made");
    EXPECT_EQ(tokenizer.size(), size);
    EXPECT_EQ(tokenizer.find("<｜begin▁of▁sentence｜>"), 0);
    EXPECT_EQ(tokenizer.find("<｜end▁of▁sentence｜>"), 1);
    EXPECT_EQ(tokenizer.data().bos, 0);
    EXPECT_TRUE(tokenizer.is_end_of_generation(1));
    EXPECT_NO_THROW(ChatTokens{tokenizer});
  }
}

TEST(SyntheticTokenizer, EveryWordHasItsMerge) {
  const TokenizerData data = make_tokenizer(kDeepSeekVocabulary);
  ASSERT_EQ(data.merges.size(), data.tokens.size() - kSmallestVocabulary);
  for (size_t i = 0; i < data.merges.size(); ++i) {
    std::string joined = data.merges[i];
    joined.erase(joined.find(' '), 1);
    ASSERT_EQ(joined, data.tokens[i + kSmallestVocabulary]);
  }
}

TEST(SyntheticTokenizer, TextComesBack) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const Tokenizer tokenizer(make_tokenizer(kDeepSeekVocabulary), "made");
  std::string text = "Größe 你好, 12345\n\t the end";
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(random.integer(' ', '~'));
  const std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::kAsText);
  EXPECT_EQ(tokenizer.decode(ids), text);
  const std::vector<int32_t> words = tokenizer.encode(" the word", SpecialTokens::kAsText);
  EXPECT_LT(words.size(), std::string(" the word").size());  // merges do apply
}

}  // namespace
}  // namespace sluice::synth
