// The tokenizer on a small vocabulary: ids by hand, special tokens, refusal of broken content.
#include "engine/text/tokenizer.h"

#include <gtest/gtest.h>

#include "quant/base/error.h"
#include "support/random_tensors.h"
#include "text/small_tokenizer.h"

namespace sluice {
namespace {

using testing::small_byte;
using testing::small_tokenizer;
using testing::small_tokenizer_data;
using Ids = std::vector<int32_t>;

// what() of the Error that `action` throws; empty when it throws none.
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

std::string construction_error(const TokenizerData& data) {
  return error_of([&] { Tokenizer tokenizer(data, "small"); });
}

TEST(Tokenizer, MergesByRank) {
  const Tokenizer tokenizer = small_tokenizer();
  const int32_t hello = tokenizer.find("hello").value();
  const int32_t space_hello = tokenizer.find("Ġhello").value();
  EXPECT_EQ(tokenizer.encode("hello hello", SpecialTokens::kParse), (Ids{hello, space_hello}));
  // "b c" comes before "a b", so "abc" never becomes one token.
  EXPECT_EQ(tokenizer.encode("abc", SpecialTokens::kParse),
            (Ids{small_byte('a'), tokenizer.find("bc").value()}));
  EXPECT_EQ(tokenizer.encode("", SpecialTokens::kParse), Ids{});
  EXPECT_EQ(tokenizer.encode("é", SpecialTokens::kParse), (Ids{small_byte('\xC3'), small_byte('\xA9')}));
}

TEST(Tokenizer, SpecialTokensByMode) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "hello<｜User｜><think>";
  const int32_t hello = tokenizer.find("hello").value();
  EXPECT_EQ(tokenizer.encode(text, SpecialTokens::kParse),
            (Ids{hello, testing::kSmallUser, testing::kSmallThink}));
  const Ids as_text = tokenizer.encode(text, SpecialTokens::kAsText);
  EXPECT_EQ(std::count(as_text.begin(), as_text.end(), testing::kSmallUser), 0);
  EXPECT_EQ(as_text.back(), testing::kSmallThink);
  const Ids plain = tokenizer.encode(text, SpecialTokens::kNone);
  for (const int32_t id : plain) EXPECT_EQ(tokenizer.type(id), TokenType::kNormal);
  for (const SpecialTokens mode : {SpecialTokens::kParse, SpecialTokens::kAsText, SpecialTokens::kNone}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, mode)), text);
  }
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string message = error_of([&] { (void)tokenizer.encode("ab\xFFz", SpecialTokens::kParse); });
  EXPECT_NE(message.find("byte 0xff at byte offset 2"), std::string::npos) << message;
  EXPECT_NE(error_of([&] { (void)tokenizer.encode("\xED\xA0\x80", SpecialTokens::kNone); }), "");
}

TEST(Tokenizer, IdsOutOfRangeAreRefused) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto size = static_cast<int32_t>(tokenizer.size());
  for (const int32_t id : {-1, size, size + 1000}) {
    EXPECT_THROW((void)tokenizer.token_bytes(id), Error);
    EXPECT_THROW((void)tokenizer.type(id), Error);
    EXPECT_THROW((void)tokenizer.decode(std::vector<int32_t>{id}), Error);
    EXPECT_FALSE(tokenizer.is_end_of_generation(id));
  }
}

TEST(Tokenizer, BytesOfTokens) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.find("Ġhello").value()), " hello");
  EXPECT_EQ(tokenizer.token_bytes(small_byte('\x00')), std::string(1, '\0'));
  EXPECT_EQ(tokenizer.token_bytes(small_byte('\xFF')), "\xFF");
  EXPECT_EQ(tokenizer.token_bytes(testing::kSmallBos), "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(tokenizer.find("nothing like it"), std::nullopt);
}

TEST(Tokenizer, WhatEndsAnAnswer) {
  TokenizerData data = small_tokenizer_data();
  data.eos = testing::kSmallPad;
  data.tokens.insert(data.tokens.end(), {"<|im_end|>", "<|end|>"});
  data.types.insert(data.types.end(), {TokenType::kControl, TokenType::kNormal});
  const Tokenizer tokenizer(data, "small");
  EXPECT_TRUE(tokenizer.is_end_of_generation(testing::kSmallPad));
  EXPECT_TRUE(tokenizer.is_end_of_generation(testing::kSmallEos));  // by its name
  EXPECT_TRUE(tokenizer.is_end_of_generation(tokenizer.find("<|im_end|>").value()));
  EXPECT_FALSE(tokenizer.is_end_of_generation(tokenizer.find("<|end|>").value()));  // no control token
  EXPECT_FALSE(tokenizer.is_end_of_generation(testing::kSmallBos));
}

TEST(Tokenizer, ControlNames) {
  for (const char* name : {"<|eot_id|>", "<｜User｜>", "<|x|>"}) EXPECT_TRUE(is_control_name(name)) << name;
  for (const char* name : {"<think>", "<||>", "<|>", "<｜｜>", "<｜>", "|x|", "", "<|x>", "<|x｜>"}) {
    EXPECT_FALSE(is_control_name(name)) << name;
  }
}

TEST(Tokenizer, BrokenContentIsRefused) {
  const auto expect_error = [](const TokenizerData& data, std::string_view part) {
    const std::string message = construction_error(data);
    EXPECT_NE(message.find(part), std::string::npos) << "wanted \"" << part << "\" in \"" << message << "\"";
  };
  EXPECT_EQ(construction_error(small_tokenizer_data()), "");
  expect_error({}, "expected a list of tokens");
  TokenizerData data = small_tokenizer_data();
  data.types.pop_back();
  expect_error(data, "a type for each");
  data = small_tokenizer_data();
  data.eos = static_cast<int32_t>(data.tokens.size());
  expect_error(data, "eos token: expected an id from 0 to");
  data = small_tokenizer_data();
  data.bos = -1;
  expect_error(data, "bos token");
  data = small_tokenizer_data();
  data.tokens[20].clear();
  expect_error(data, "token 20: expected a text, found an empty one");
  data = small_tokenizer_data();
  data.tokens[5] = "\xA9";  // would match inside a character
  expect_error(data, "token 5: expected valid UTF-8");
  data = small_tokenizer_data();
  data.tokens[6] = data.tokens[5];
  expect_error(data, "token 6: expected a text of its own");
  data = small_tokenizer_data();
  data.tokens[7 + 'Q'] = "quite different";
  expect_error(data, "for byte 0x51, found none");
  data = small_tokenizer_data();
  data.types[7 + 'Q'] = TokenType::kControl;
  expect_error(data, "for byte 0x51, found one of another type");
}

TEST(Tokenizer, BrokenMergesAreRefused) {
  const auto expect_error = [](const std::string& merge, std::string_view part) {
    TokenizerData data = small_tokenizer_data();
    data.merges.push_back(merge);
    const std::string message = construction_error(data);
    EXPECT_NE(message.find(part), std::string::npos) << "wanted \"" << part << "\" in \"" << message << "\"";
    EXPECT_NE(message.find("merge 8"), std::string::npos) << message;
  };
  expect_error("ab", "two tokens with a space between");
  expect_error("a b c", "two tokens with a space between");
  expect_error("", "two tokens with a space between");
  expect_error("a zz", "two known tokens");
  expect_error(" b", "two known tokens");
  expect_error("z z", "together are a known one");
  expect_error("h e", "was not there before");
  TokenizerData data = small_tokenizer_data();
  data.tokens.insert(data.tokens.end(), {"zz", "<|"});
  data.types.insert(data.types.end(), {TokenType::kControl, TokenType::kNormal});
  data.merges.push_back("z z");
  EXPECT_NE(construction_error(data).find("a merge to a normal token"), std::string::npos);
}

TEST(Tokenizer, RememberedWordsAreTheSame) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const Tokenizer tokenizer = small_tokenizer();
  std::string text;
  Ids expected;
  // Words of all lengths around the limit for remembering, each several times.
  for (int i = 0; i < 300; ++i) {
    std::string word(static_cast<size_t>(random.integer(2, 41)), "hello"[i % 5]);
    word[0] = ' ';
    text += word;
    const Ids ids = tokenizer.encode(word, SpecialTokens::kNone);
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  EXPECT_EQ(tokenizer.encode(text, SpecialTokens::kNone), expected);
}

}  // namespace
}  // namespace sluice
