// Streaming never shows half a character, and in the end has shown what decoding at once gives.
#include <gtest/gtest.h>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "support/random_tensors.h"
#include "text/small_tokenizer.h"

namespace sluice {
namespace {

using testing::small_byte;
using testing::small_tokenizer;

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const Tokenizer tokenizer = small_tokenizer();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(tokenizer.find("hello").value()), "hello");
  EXPECT_EQ(decoder.push(small_byte('\xF0')), "");
  EXPECT_EQ(decoder.push(small_byte('\x9F')), "");
  EXPECT_EQ(decoder.push(small_byte('\x98')), "");
  EXPECT_EQ(decoder.push(small_byte('\x80')), "\U0001F600");
  EXPECT_EQ(decoder.push(testing::kSmallThinkEnd), "</think>");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, ReplacesWhatCannotBecomeACharacter) {
  const Tokenizer tokenizer = small_tokenizer();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(small_byte('\x80')), "\uFFFD");
  EXPECT_EQ(decoder.push(small_byte('\xE4')), "");
  EXPECT_EQ(decoder.push(small_byte('\xB8')), "");
  EXPECT_EQ(decoder.push(small_byte('a')), "\uFFFDa");  // one for the two bytes
  EXPECT_EQ(decoder.push(small_byte('\xE4')), "");
  EXPECT_EQ(decoder.push(small_byte('\xC3')), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
  EXPECT_EQ(decoder.push(small_byte('a')), "a");  // nothing was left behind
}

TEST(StreamDecoder, RandomIdsGiveWhatDecodingAtOnceGives) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const Tokenizer tokenizer = small_tokenizer();
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids(static_cast<size_t>(random.integer(0, 50)));
    for (int32_t& id : ids) {
      // Half of them bytes above 0x7F, so that whole and broken characters are common.
      id = random.integer(0, 1) == 0 ? small_byte(static_cast<char>(random.integer(0x80, 0xFF)))
                                     : static_cast<int32_t>(random.integer(0, tokenizer.size() - 1));
    }
    StreamDecoder decoder(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string text = decoder.push(id);
      EXPECT_EQ(find_invalid_utf8(text), std::nullopt);
      streamed += text;
    }
    streamed += decoder.finish();
    const std::string bytes = tokenizer.decode(ids);
    std::string expected;
    for (std::string_view rest = bytes; !rest.empty();) {
      const Utf8Step step = utf8_step(rest);
      expected += step.status == Utf8Status::kComplete ? rest.substr(0, step.length) : kReplacementCharacter;
      rest.remove_prefix(step.length);
    }
    EXPECT_EQ(streamed, expected);
  }
}

}  // namespace
}  // namespace sluice
