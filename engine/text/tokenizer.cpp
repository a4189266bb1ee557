// The tokenizer itself: checks of its content, and encode: special tokens are cut out, the rest is split into
// words, each word goes through byte-pair encoding.
#include "engine/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "engine/text/byte_level.h"
#include "engine/text/utf8.h"
#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice {
namespace {

// Names under which models know the token that ends an answer.
constexpr std::array<std::string_view, 10> kEndNames = {
    "<｜end▁of▁sentence｜>", "<|eot_id|>",    "<|im_end|>", "<|end|>", "<|endoftext|>",
    "<|end_of_text|>",       "<end_of_turn>", "<|EOT|>",    "</s>",    "<|eom_id|>"};

// Words up to this size are remembered within one encode call; longer ones hardly ever come back.
constexpr size_t kLongestRememberedWord = 32;

bool is_special(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUserDefined;
}

std::vector<SpecialToken> special_tokens(const TokenizerData& data, bool with_control) {
  std::vector<SpecialToken> tokens;
  for (size_t i = 0; i < data.tokens.size(); ++i) {
    const bool wanted = with_control ? is_special(data.types[i]) : data.types[i] == TokenType::kUserDefined;
    if (wanted) tokens.push_back({data.tokens[i], static_cast<int32_t>(i)});
  }
  return tokens;
}

}  // namespace

bool is_control_name(std::string_view text) {
  return (text.size() > 4 && text.starts_with("<|") && text.ends_with("|>")) ||
         (text.size() > 8 && text.starts_with("<｜") && text.ends_with("｜>"));
}

Tokenizer::Tokenizer(TokenizerData data, std::string source)
    : data_(std::move(data)),
      source_(std::move(source)),
      byte_pairs_(static_cast<int64_t>(data_.merges.size())),
      all_special_({}),
      user_defined_({}) {
  check_tokens();
  index_tokens();
  index_bytes();
  index_merges();
  all_special_ = SpecialTokenFinder(special_tokens(data_, true));
  user_defined_ = SpecialTokenFinder(special_tokens(data_, false));
  if (data_.eos) end_of_generation_.insert(*data_.eos);
  for (const std::string_view name : kEndNames) {
    const std::optional<int32_t> id = find(name);
    if (id && type(*id) == TokenType::kControl) end_of_generation_.insert(*id);
  }
}

void Tokenizer::check_tokens() const {
  const size_t n = data_.tokens.size();
  constexpr size_t kMost = std::numeric_limits<int32_t>::max();
  if (n == 0 || n > kMost) {
    throw Error(source_ + ": tokenizer", "a list of tokens", fmt::format("{} tokens", n));
  }
  if (data_.types.size() != n) {
    throw Error(source_ + ": tokenizer", fmt::format("a type for each of {} tokens", n),
                fmt::format("{} types", data_.types.size()));
  }
  if (data_.merges.size() > kMost / 4) {
    throw Error(source_ + ": tokenizer", "fewer merges", fmt::format("{} merges", data_.merges.size()));
  }
  const auto check = [&](std::string_view name, std::optional<int32_t> id) {
    if (id && (*id < 0 || static_cast<size_t>(*id) >= n)) {
      throw Error(fmt::format("{}: {} token", source_, name), fmt::format("an id from 0 to {}", n - 1),
                  fmt::format("{}", *id));
    }
  };
  check("bos", data_.bos);
  check("eos", data_.eos);
  check("pad", data_.pad);
}

void Tokenizer::index_tokens() {
  ids_.reserve(data_.tokens.size());
  for (size_t i = 0; i < data_.tokens.size(); ++i) {
    const std::string& text = data_.tokens[i];
    const auto subject = [&] { return fmt::format("{}: token {}", source_, i); };
    if (text.empty()) throw Error(subject(), "a text", "an empty one");
    // A special token that began or ended inside a character would leave invalid UTF-8 on both its sides.
    if (find_invalid_utf8(text)) throw Error(subject(), "valid UTF-8", "other bytes");
    const auto [entry, is_new] = ids_.emplace(text, static_cast<int32_t>(i));
    if (!is_new) {
      throw Error(subject(), "a text of its own",
                  fmt::format("{}, as token {}", in_quotes(text), entry->second));
    }
  }
}

void Tokenizer::index_bytes() {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const std::string text = byte_level_character(static_cast<uint8_t>(byte));
    const std::optional<int32_t> id = find(text);
    if (!id || type(*id) != TokenType::kNormal) {
      throw Error(fmt::format("{}: tokenizer", source_),
                  fmt::format("a normal token {} for byte 0x{:02x}", in_quotes(text), byte),
                  id ? "one of another type" : "none");
    }
    byte_pairs_.set_byte(static_cast<uint8_t>(byte), *id);
  }
}

void Tokenizer::index_merges() {
  for (size_t i = 0; i < data_.merges.size(); ++i) {
    const std::string& merge = data_.merges[i];
    const auto fail = [&](std::string_view expected) {
      throw Error(fmt::format("{}: merge {}", source_, i), expected, in_quotes(merge));
    };
    const size_t space = merge.find(' ');
    if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos) {
      fail("two tokens with a space between");
    }
    const std::string_view left = std::string_view(merge).substr(0, space);
    const std::string_view right = std::string_view(merge).substr(space + 1);
    const std::optional<int32_t> left_id = find(left);
    const std::optional<int32_t> right_id = find(right);
    const std::optional<int32_t> merged_id = find(std::string(left).append(right));
    if (!left_id || !right_id) fail("two known tokens");
    if (!merged_id) fail("two tokens that together are a known one");
    // Else plain text could become a control token.
    if (type(*merged_id) != TokenType::kNormal) fail("a merge to a normal token");
    if (!byte_pairs_.add_merge(*left_id, *right_id, static_cast<int32_t>(i), *merged_id)) {
      fail("a merge that was not there before");
    }
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  if (text.size() >= size_t{1} << 31U) {
    throw Error("text", "less than 2 GiB", fmt::format("{} bytes", text.size()));
  }
  if (const std::optional<size_t> offset = find_invalid_utf8(text)) {
    throw Error("text", "valid UTF-8",
                fmt::format("byte 0x{:02x} at byte offset {}", static_cast<uint8_t>(text[*offset]), *offset));
  }
  std::vector<int32_t> ids;
  BytePairEncoder::Workspace workspace;
  size_t done = 0;
  if (special != SpecialTokens::kNone) {
    const SpecialTokenFinder& finder = special == SpecialTokens::kParse ? all_special_ : user_defined_;
    while (const std::optional<SpecialTokenFinder::Match> match = finder.find(text, done)) {
      encode_words(text.substr(done, match->begin - done), workspace, ids);
      ids.push_back(match->id);
      done = match->begin + match->length;
    }
  }
  encode_words(text.substr(done), workspace, ids);
  return ids;
}

void Tokenizer::encode_words(std::string_view text, BytePairEncoder::Workspace& workspace,
                             std::vector<int32_t>& ids) const {
  // Where in `ids` a word's ids stand already.
  struct Range {
    size_t begin;
    size_t count;
  };
  std::unordered_map<std::string_view, Range> seen;
  for (const std::string_view word : pre_tokenizer_.split(text)) {
    const size_t begin = ids.size();
    if (word.size() > kLongestRememberedWord) {
      byte_pairs_.encode(word, workspace, ids);
      continue;
    }
    const auto [entry, is_new] = seen.try_emplace(word);
    if (is_new) {
      byte_pairs_.encode(word, workspace, ids);
      entry->second = {begin, ids.size() - begin};
    } else {
      const Range known = entry->second;
      for (size_t i = 0; i < known.count; ++i) ids.push_back(ids[known.begin + i]);
    }
  }
}

void Tokenizer::check_id(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= data_.tokens.size()) {
    throw Error("token id", fmt::format("0 to {}", data_.tokens.size() - 1), fmt::format("{}", id));
  }
}

std::string Tokenizer::token_bytes(int32_t id) const {
  const TokenType token_type = type(id);
  const std::string& text = data_.tokens[static_cast<size_t>(id)];
  if (is_special(token_type) || token_type == TokenType::kUnused) return text;
  return byte_level_decode(text).value_or(text);
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids) bytes += token_bytes(id);
  return bytes;
}

std::optional<int32_t> Tokenizer::find(std::string_view token_text) const {
  const auto entry = ids_.find(std::string(token_text));
  if (entry == ids_.end()) return std::nullopt;
  return entry->second;
}

TokenType Tokenizer::type(int32_t id) const {
  check_id(id);
  return data_.types[static_cast<size_t>(id)];
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  return end_of_generation_.contains(id);
}

}  // namespace sluice
