// The tokenizer of a checkpoint directory: tokenizer.json for the tokens, tokenizer_config.json for their
// roles.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>

#include "engine/text/json_access.h"
#include "engine/text/tokenizer.h"
#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice {
namespace {

// Larger than any vocabulary in use; keeps an absurd size in a config from filling the memory.
constexpr int64_t kMostTokens = 1 << 22;

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const int error = errno;
  if (!file) throw Error(path.string(), "a readable file", system_error_text(error));
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw Error(path.string(), "a readable file", "a read error");
  return text;
}

// "bos_token": the text itself, or an object with it as "content".
std::optional<int32_t> read_role(const JsonPlace& config, std::string_view key, const TokenizerData& data) {
  const std::optional<JsonPlace> place = config.find(key);
  if (!place) return std::nullopt;
  const JsonPlace text = place->value().is_object() ? place->at("content") : *place;
  const auto found = std::find(data.tokens.begin(), data.tokens.end(), text.string());
  if (found == data.tokens.end()) text.fail("a token of tokenizer.json");
  return static_cast<int32_t>(found - data.tokens.begin());
}

// A string, or a list of named ones of which "default" is meant.
std::string read_chat_template(const JsonPlace& config) {
  const std::optional<JsonPlace> place = config.find("chat_template");
  if (!place) return {};
  if (!place->value().is_array()) return place->string();
  for (size_t i = 0; i < place->array().size(); ++i) {
    const JsonPlace named = place->element(i);
    if (named.at("name").string() == "default") return named.at("template").string();
  }
  return {};
}

void read_config(const std::filesystem::path& path, TokenizerData& data) {
  const Json document = parse_json(read_text(path), path.string());
  const JsonPlace config(document, path.string());
  const auto assign = [&](std::string_view key, std::optional<int32_t>& role) {
    const std::optional<int32_t> id = read_role(config, key, data);
    if (id) role = id;
  };
  assign("bos_token", data.bos);
  assign("eos_token", data.eos);
  assign("pad_token", data.pad);
  data.chat_template = read_chat_template(config);
}

void pad(TokenizerData& data, int64_t vocab_size, const std::string& source) {
  const auto listed = static_cast<int64_t>(data.tokens.size());
  if (vocab_size > kMostTokens || listed > vocab_size) {
    throw Error(source, fmt::format("a vocab_size from {} to {}", listed, kMostTokens),
                fmt::format("{}", vocab_size));
  }
  for (int64_t id = listed; id < vocab_size; ++id) {
    data.tokens.push_back(fmt::format("[PAD{}]", id));
    data.types.push_back(TokenType::kUnused);
  }
}

}  // namespace

TokenizerData tokenizer_from_directory(const std::filesystem::path& directory, int64_t vocab_size) {
  const std::filesystem::path path = directory / "tokenizer.json";
  TokenizerData data = parse_tokenizer_json(read_text(path), path.string());
  const std::filesystem::path config = directory / "tokenizer_config.json";
  if (std::filesystem::exists(config)) read_config(config, data);
  // Whatever add_bos_token says: DeepSeek-V3.2 says false there, because its own encoder writes BOS as text,
  // and yet has never seen a sequence without.
  data.add_bos = true;
  if (vocab_size > 0) pad(data, vocab_size, path.string());
  return data;
}

}  // namespace sluice
