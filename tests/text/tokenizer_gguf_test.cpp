// The tokenizer.ggml.* keys: order and types as other readers of the format want them, and refusal by key.
#include <gtest/gtest.h>

#include <functional>

#include "engine/text/tokenizer.h"
#include "quant/base/error.h"
#include "text/small_tokenizer.h"

namespace sluice {
namespace {

using quant::GgufArray;
using quant::GgufMetadata;
using quant::GgufType;
using testing::small_tokenizer_data;

GgufMetadata small_metadata() {
  GgufMetadata metadata("m.gguf");
  tokenizer_to_gguf(small_tokenizer_data(), metadata);
  return metadata;
}

std::string error_of(const std::function<void(GgufMetadata&)>& change) {
  GgufMetadata metadata = small_metadata();
  change(metadata);
  try {
    (void)tokenizer_from_gguf(metadata);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(TokenizerGguf, OrderAndTypes) {
  TokenizerData data = small_tokenizer_data();
  data.chat_template = "{{ x }}";
  GgufMetadata metadata("m.gguf");
  tokenizer_to_gguf(data, metadata);
  std::vector<std::pair<std::string, GgufType>> found;
  for (const quant::GgufEntry& entry : metadata.entries()) {
    found.emplace_back(entry.key, quant::gguf_type_of(entry.value));
  }
  const std::vector<std::pair<std::string, GgufType>> wanted = {
      {"tokenizer.ggml.model", GgufType::kString},       {"tokenizer.ggml.pre", GgufType::kString},
      {"tokenizer.ggml.tokens", GgufType::kArray},       {"tokenizer.ggml.token_type", GgufType::kArray},
      {"tokenizer.ggml.merges", GgufType::kArray},       {"tokenizer.ggml.bos_token_id", GgufType::kU32},
      {"tokenizer.ggml.eos_token_id", GgufType::kU32},   {"tokenizer.ggml.padding_token_id", GgufType::kU32},
      {"tokenizer.ggml.add_bos_token", GgufType::kBool}, {"tokenizer.ggml.add_eos_token", GgufType::kBool},
      {"tokenizer.chat_template", GgufType::kString}};
  EXPECT_EQ(found, wanted);
  EXPECT_EQ(metadata.get<std::string>("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(metadata.get<std::string>("tokenizer.ggml.pre"), "deepseek-v3");
  EXPECT_EQ(metadata.get<bool>("tokenizer.ggml.add_bos_token"), true);
  EXPECT_EQ(metadata.get<bool>("tokenizer.ggml.add_eos_token"), false);
  EXPECT_EQ(metadata.get_array<int32_t>("tokenizer.ggml.token_type")[0], 3);
}

TEST(TokenizerGguf, RoundTrip) {
  const TokenizerData wanted = small_tokenizer_data();
  const TokenizerData data = tokenizer_from_gguf(small_metadata());
  EXPECT_EQ(data.tokens, wanted.tokens);
  EXPECT_EQ(data.types, wanted.types);
  EXPECT_EQ(data.merges, wanted.merges);
  EXPECT_EQ(data.bos, wanted.bos);
  EXPECT_EQ(data.eos, wanted.eos);
  EXPECT_EQ(data.pad, wanted.pad);
  EXPECT_EQ(data.add_bos, wanted.add_bos);
  EXPECT_EQ(data.chat_template, "");
}

TEST(TokenizerGguf, IdsAreOptional) {
  TokenizerData data = small_tokenizer_data();
  data.bos = data.eos = data.pad = std::nullopt;
  data.add_bos = false;
  GgufMetadata metadata("m.gguf");
  tokenizer_to_gguf(data, metadata);
  EXPECT_EQ(metadata.find("tokenizer.ggml.bos_token_id"), nullptr);
  const TokenizerData read = tokenizer_from_gguf(metadata);
  EXPECT_EQ(read.bos, std::nullopt);
  EXPECT_EQ(read.pad, std::nullopt);
  EXPECT_FALSE(read.add_bos);
}

TEST(TokenizerGguf, ControlNamesAreForced) {
  GgufMetadata metadata = small_metadata();
  std::vector<int32_t> types = metadata.get_array<int32_t>("tokenizer.ggml.token_type");
  types[testing::kSmallUser] = 4;
  metadata.set("tokenizer.ggml.token_type", GgufArray(types));
  const TokenizerData data = tokenizer_from_gguf(metadata);
  EXPECT_EQ(data.types[testing::kSmallUser], TokenType::kControl);
  EXPECT_EQ(data.types[testing::kSmallThink], TokenType::kUserDefined);
}

TEST(TokenizerGguf, WhetherThereIsOne) {
  EXPECT_FALSE(has_tokenizer(GgufMetadata("m.gguf")));
  EXPECT_TRUE(has_tokenizer(small_metadata()));
  GgufMetadata none("m.gguf");
  none.set("tokenizer.ggml.model", std::string("none"));
  EXPECT_FALSE(has_tokenizer(none));
  none.set("tokenizer.ggml.model", std::string("llama"));
  EXPECT_TRUE(has_tokenizer(none));  // and reading it says what is wrong
  EXPECT_THROW((void)tokenizer_from_gguf(none), Error);
}

TEST(TokenizerGguf, ErrorsNameTheKey) {
  const auto expect_error = [](const std::function<void(GgufMetadata&)>& change, std::string_view key,
                               std::string_view part) {
    const std::string message = error_of(change);
    EXPECT_NE(message.find("m.gguf"), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const std::string prefix = "tokenizer.ggml.";
  expect_error([&](GgufMetadata& m) { m.set(prefix + "model", std::string("llama")); }, prefix + "model",
               "\"gpt2\"");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "pre", std::string("deepseek-llm")); }, prefix + "pre",
               "\"deepseek-v3\"");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "pre", uint32_t{1}); }, prefix + "pre", "");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "tokens", GgufArray(std::vector<int32_t>{1})); },
               prefix + "tokens", "");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "token_type", GgufArray(std::vector<int32_t>{1})); },
               prefix + "token_type", "found 1");
  expect_error(
      [&](GgufMetadata& m) {
        std::vector<int32_t> types = m.get_array<int32_t>(prefix + "token_type");
        types[9] = 7;
        m.set(prefix + "token_type", GgufArray(types));
      },
      prefix + "token_type", "found 7 at 9");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "merges", std::string("a b")); }, prefix + "merges", "");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "eos_token_id", uint32_t{100000}); },
               prefix + "eos_token_id", "found 100000");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "bos_token_id", int32_t{-1}); }, prefix + "bos_token_id",
               "");
  expect_error([&](GgufMetadata& m) { m.set(prefix + "add_bos_token", uint32_t{1}); },
               prefix + "add_bos_token", "");
  GgufMetadata empty("m.gguf");
  EXPECT_THROW((void)tokenizer_from_gguf(empty), Error);
}

}  // namespace
}  // namespace sluice
