// The tokenizer.ggml.* keys: byte-level BPE ("gpt2") with the "deepseek-v3" pre-tokenizer.
#include <fmt/format.h>

#include "engine/text/tokenizer.h"
#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kPreKey = "tokenizer.ggml.pre";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kBosKey = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kEosKey = "tokenizer.ggml.eos_token_id";
constexpr std::string_view kPadKey = "tokenizer.ggml.padding_token_id";
constexpr std::string_view kAddBosKey = "tokenizer.ggml.add_bos_token";
constexpr std::string_view kAddEosKey = "tokenizer.ggml.add_eos_token";
constexpr std::string_view kChatTemplateKey = "tokenizer.chat_template";

constexpr std::string_view kModel = "gpt2";
constexpr std::string_view kPre = "deepseek-v3";

std::string subject(const quant::GgufMetadata& metadata, std::string_view key) {
  return fmt::format("{}: {}", metadata.source(), key);
}

void expect(const quant::GgufMetadata& metadata, std::string_view key, std::string_view wanted) {
  const auto value = metadata.get<std::string>(key);
  if (value != wanted) throw Error(subject(metadata, key), in_quotes(wanted), in_quotes(value));
}

std::vector<TokenType> read_types(const quant::GgufMetadata& metadata,
                                  const std::vector<std::string>& tokens) {
  const std::vector<int32_t>& stored = metadata.get_array<int32_t>(kTypesKey);
  if (stored.size() != tokens.size()) {
    throw Error(subject(metadata, kTypesKey), fmt::format("{} types", tokens.size()),
                fmt::format("{}", stored.size()));
  }
  std::vector<TokenType> types;
  types.reserve(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    if (stored[i] < static_cast<int32_t>(TokenType::kNormal) ||
        stored[i] > static_cast<int32_t>(TokenType::kByte)) {
      throw Error(subject(metadata, kTypesKey), "types from 1 to 6", fmt::format("{} at {}", stored[i], i));
    }
    const auto type = static_cast<TokenType>(stored[i]);
    // Some writers mark such added tokens as user-defined, and text could then forge them. A normal token is
    // only ever reached by merges, where the name does no harm.
    const bool forced = type != TokenType::kNormal && is_control_name(tokens[i]);
    types.push_back(forced ? TokenType::kControl : type);
  }
  return types;
}

std::optional<int32_t> read_id(const quant::GgufMetadata& metadata, std::string_view key, size_t n_tokens) {
  if (metadata.find(key) == nullptr) return std::nullopt;
  const int64_t id = metadata.get_count(key);
  if (id < 0 || static_cast<uint64_t>(id) >= n_tokens) {
    throw Error(subject(metadata, key), fmt::format("an id below {}", n_tokens), fmt::format("{}", id));
  }
  return static_cast<int32_t>(id);
}

void write_id(std::string_view key, std::optional<int32_t> id, quant::GgufMetadata& metadata) {
  if (id) metadata.set(key, static_cast<uint32_t>(*id));
}

}  // namespace

bool has_tokenizer(const quant::GgufMetadata& metadata) {
  if (metadata.find(kTokensKey) != nullptr) return true;
  const quant::GgufValue* model = metadata.find(kModelKey);
  if (model == nullptr) return false;
  // What writers put there for a model without one.
  const auto* name = std::get_if<std::string>(model);
  return name == nullptr || (*name != "none" && *name != "no_vocab");
}

TokenizerData tokenizer_from_gguf(const quant::GgufMetadata& metadata) {
  expect(metadata, kModelKey, kModel);
  expect(metadata, kPreKey, kPre);
  TokenizerData data;
  data.tokens = metadata.get_array<std::string>(kTokensKey);
  data.types = read_types(metadata, data.tokens);
  data.merges = metadata.get_array<std::string>(kMergesKey);
  data.bos = read_id(metadata, kBosKey, data.tokens.size());
  data.eos = read_id(metadata, kEosKey, data.tokens.size());
  data.pad = read_id(metadata, kPadKey, data.tokens.size());
  data.add_bos = metadata.get_or<bool>(kAddBosKey, true);
  data.chat_template = metadata.get_or<std::string>(kChatTemplateKey, {});
  return data;
}

void tokenizer_to_gguf(const TokenizerData& data, quant::GgufMetadata& metadata) {
  std::vector<int32_t> types;
  types.reserve(data.types.size());
  for (const TokenType type : data.types) types.push_back(static_cast<int32_t>(type));
  metadata.set(kModelKey, std::string(kModel));
  metadata.set(kPreKey, std::string(kPre));
  metadata.set(kTokensKey, quant::GgufArray(data.tokens));
  metadata.set(kTypesKey, quant::GgufArray(std::move(types)));
  metadata.set(kMergesKey, quant::GgufArray(data.merges));
  write_id(kBosKey, data.bos, metadata);
  write_id(kEosKey, data.eos, metadata);
  write_id(kPadKey, data.pad, metadata);
  metadata.set(kAddBosKey, data.add_bos);
  metadata.set(kAddEosKey, false);
  if (!data.chat_template.empty()) metadata.set(kChatTemplateKey, data.chat_template);
}

}  // namespace sluice
