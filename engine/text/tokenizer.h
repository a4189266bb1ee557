// Byte-level BPE with DeepSeek-V3's pre-tokenizer: text to ids and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/text/byte_pair.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/special_tokens.h"
#include "quant/gguf_value.h"

namespace sluice {

/// Values as stored in tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// A tokenizer's content, independent of where it was read from.
struct TokenizerData {
  std::vector<std::string> tokens;  // byte-level (GPT-2 alphabet) text; special tokens as they are
  std::vector<TokenType> types;     // one per token
  std::vector<std::string> merges;  // "left right", best first
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  std::optional<int32_t> pad;
  bool add_bos = true;
  std::string chat_template;  // Jinja text, kept for other programs; empty when there is none
};

/// `<|..|>` or `<｜..｜>` (U+FF5C): the names of control tokens, whatever a file says of them.
bool is_control_name(std::string_view text);

/// From `tokenizer.ggml.*`. Throws Error naming the key. `has_tokenizer` false means that there are no such
/// keys.
bool has_tokenizer(const quant::GgufMetadata& metadata);
TokenizerData tokenizer_from_gguf(const quant::GgufMetadata& metadata);
/// From a checkpoint directory: tokenizer.json, and tokenizer_config.json when present. `vocab_size` > 0 pads
/// the list with unused "[PADn]" tokens to the model's size. Throws Error.
TokenizerData tokenizer_from_directory(const std::filesystem::path& directory, int64_t vocab_size);
/// Parses the text of a tokenizer.json; `source` names it in errors. Throws Error. Exposed for the fuzzer.
TokenizerData parse_tokenizer_json(std::string_view json, const std::string& source);
/// Writes the `tokenizer.ggml.*` keys (and tokenizer.chat_template), in llama.cpp's order and types.
void tokenizer_to_gguf(const TokenizerData& data, quant::GgufMetadata& metadata);

enum class SpecialTokens { kParse, kAsText, kNone };

class Tokenizer {
 public:
  /// Throws Error when ids are out of range, a merge names an unknown token, or a byte has no token.
  Tokenizer(TokenizerData data, std::string source);

  /// Text to ids; no BOS is added. With kParse control and user-defined tokens in the text become their ids
  /// (longest first); with kAsText only user-defined ones do, with kNone not even those. Throws Error on
  /// invalid UTF-8, naming the byte offset.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const;

  /// Bytes of one token; may be part of a UTF-8 character. Control tokens give their text.
  [[nodiscard]] std::string token_bytes(int32_t id) const;
  /// Concatenated bytes. May be invalid UTF-8 when the ids are.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const;

  [[nodiscard]] std::optional<int32_t> find(std::string_view token_text) const;
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(data_.tokens.size()); }
  [[nodiscard]] TokenType type(int32_t id) const;
  [[nodiscard]] bool is_end_of_generation(int32_t id) const;
  [[nodiscard]] const TokenizerData& data() const { return data_; }

 private:
  void check_tokens() const;
  void index_tokens();
  void index_bytes();
  void index_merges();
  void check_id(int32_t id) const;
  // Text without special tokens in it; appends.
  void encode_words(std::string_view text, BytePairEncoder::Workspace& workspace,
                    std::vector<int32_t>& ids) const;

  TokenizerData data_;
  std::string source_;
  PreTokenizer pre_tokenizer_;
  std::unordered_map<std::string, int32_t> ids_;
  BytePairEncoder byte_pairs_;
  SpecialTokenFinder all_special_;
  SpecialTokenFinder user_defined_;
  std::unordered_set<int32_t> end_of_generation_;
};

/// Turns a stream of ids into text without ever splitting a UTF-8 character: bytes that do not yet form one
/// are held back; bytes that never can become U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// Text that became complete with this id; may be empty.
  std::string push(int32_t id);
  /// What is left at the end: U+FFFD for an unfinished character, else empty.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;  // must outlive the decoder
  std::string pending_;
};

}  // namespace sluice
