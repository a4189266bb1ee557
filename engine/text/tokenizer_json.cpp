// tokenizer.json of Hugging Face's tokenizers. What would make it tokenize other than we do is refused.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "engine/text/json_access.h"
#include "engine/text/tokenizer.h"
#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice {
namespace {

// A regex may hold line breaks as they are or written \r and \n: the same pattern.
std::string with_written_line_breaks(std::string_view pattern) {
  std::string result;
  for (const char c : pattern) {
    if (c == '\r') {
      result += "\\r";
    } else if (c == '\n') {
      result += "\\n";
    } else {
      result += c;
    }
  }
  return result;
}

void expect_string(const JsonPlace& object, std::string_view key, std::string_view wanted) {
  const JsonPlace place = object.at(key);
  if (place.string() != wanted) place.fail(in_quotes(wanted));
}

// Absent and null count as false.
void expect_false(const JsonPlace& object, std::string_view key) {
  const std::optional<JsonPlace> place = object.find(key);
  if (place && place->boolean()) place->fail("false");
}

void expect_empty(const JsonPlace& object, std::string_view key) {
  const std::optional<JsonPlace> place = object.find(key);
  if (place && !place->string().empty()) place->fail("an empty string or null");
}

void check_normalizer(const JsonPlace& root) {
  const std::optional<JsonPlace> normalizer = root.find("normalizer");
  if (!normalizer) return;
  // DeepSeek-V3 has an empty sequence here.
  expect_string(*normalizer, "type", "Sequence");
  const JsonPlace steps = normalizer->at("normalizers");
  if (!steps.array().empty()) {
    throw Error(steps.subject(), "no normalizer", fmt::format("{}", steps.array().size()));
  }
}

void check_pre_tokenizer(const JsonPlace& root) {
  const JsonPlace sequence = root.at("pre_tokenizer");
  expect_string(sequence, "type", "Sequence");
  const JsonPlace steps = sequence.at("pretokenizers");
  constexpr size_t kSplits = kDeepSeekV3Patterns.size();
  if (steps.array().size() != kSplits + 1) {
    throw Error(steps.subject(), "the three splits of deepseek-v3 and a ByteLevel step",
                fmt::format("{} steps", steps.array().size()));
  }
  for (size_t i = 0; i < kSplits; ++i) {
    const JsonPlace split = steps.element(i);
    expect_string(split, "type", "Split");
    expect_string(split, "behavior", "Isolated");
    expect_false(split, "invert");
    const JsonPlace regex = split.at("pattern").at("Regex");
    if (with_written_line_breaks(regex.string()) != kDeepSeekV3Patterns[i]) {
      regex.fail(fmt::format("pattern {} of the deepseek-v3 pre-tokenizer", i + 1));
    }
  }
  const JsonPlace byte_level = steps.element(kSplits);
  expect_string(byte_level, "type", "ByteLevel");
  // Both are true when absent, so they must be there.
  for (const std::string_view key : {"add_prefix_space", "use_regex"}) {
    const JsonPlace flag = byte_level.at(key);
    if (flag.boolean()) flag.fail("false");
  }
}

void check_model(const JsonPlace& model) {
  expect_string(model, "type", "BPE");
  for (const std::string_view key : {"byte_fallback", "ignore_merges"}) expect_false(model, key);
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
    expect_empty(model, key);
  const std::optional<JsonPlace> dropout = model.find("dropout");
  if (dropout && !(dropout->value().is_number() && dropout->value().get<double>() == 0.0)) {
    dropout->fail("no dropout");
  }
}

// Collects tokens by id; ids that nobody names become unused padding.
class TokenList {
 public:
  explicit TokenList(size_t listed) : most_(2 * listed + 1024) {}

  void add(const JsonPlace& id_place, const std::string& text, TokenType type) {
    const int32_t id = id_place.id();
    // A hole costs memory: ids may not lie further out than the file's own size warrants.
    if (static_cast<size_t>(id) >= most_) id_place.fail(fmt::format("an id below {}", most_));
    const auto at = static_cast<size_t>(id);
    if (at >= tokens_.size()) {
      tokens_.resize(at + 1);
      types_.resize(at + 1, TokenType::kUnused);
    }
    const bool taken = types_[at] != TokenType::kUnused;
    const bool added_again =
        type != TokenType::kNormal && types_[at] == TokenType::kNormal && tokens_[at] == text;
    if (taken && !added_again) {
      throw Error(id_place.subject(), fmt::format("an id that {} does not have", in_quotes(tokens_[at])),
                  fmt::format("{}", id));
    }
    tokens_[at] = text;
    types_[at] = type;
  }

  void move_to(TokenizerData& data) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] == TokenType::kUnused) tokens_[i] = fmt::format("[PAD{}]", i);
    }
    data.tokens = std::move(tokens_);
    data.types = std::move(types_);
  }

 private:
  size_t most_;
  std::vector<std::string> tokens_;
  std::vector<TokenType> types_;
};

void add_added_token(const JsonPlace& place, const JsonPlace& vocabulary, TokenList& list) {
  const JsonPlace content = place.at("content");
  const JsonPlace id = place.at("id");
  // They would take white space around the token, or leave the token alone inside a word.
  for (const std::string_view key : {"lstrip", "rstrip", "single_word"}) expect_false(place, key);
  const std::optional<JsonPlace> known = vocabulary.find(content.string());
  if (known && known->id() != id.id()) {
    throw Error(id.subject(), fmt::format("{} as in model.vocab", known->id()), fmt::format("{}", id.id()));
  }
  const std::optional<JsonPlace> special = place.find("special");
  const bool is_control = (special && special->boolean()) || is_control_name(content.string());
  list.add(id, content.string(), is_control ? TokenType::kControl : TokenType::kUserDefined);
}

void read_tokens(const JsonPlace& root, const JsonPlace& model, TokenizerData& data) {
  const JsonPlace vocabulary = model.at("vocab");
  const std::optional<JsonPlace> added = root.find("added_tokens");
  TokenList list(vocabulary.object().size() + (added ? added->array().size() : 0));
  for (const auto& [text, id] : vocabulary.object().items()) {
    list.add(vocabulary.member(text, id), text, TokenType::kNormal);
  }
  for (size_t i = 0; added && i < added->array().size(); ++i)
    add_added_token(added->element(i), vocabulary, list);
  list.move_to(data);
}

// "left right", or the two in a list.
std::string read_merge(const JsonPlace& place) {
  const Json& merge = place.value();
  if (merge.is_string()) return merge.get<std::string>();
  if (!merge.is_array() || merge.size() != 2) place.fail("two tokens");
  for (size_t i = 0; i < 2; ++i) {
    const JsonPlace side = place.element(i);
    if (side.string().empty() || side.string().find(' ') != std::string::npos) {
      side.fail("a byte-level token");
    }
  }
  return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
}

std::optional<int32_t> find_token(const TokenizerData& data, std::string_view text) {
  const auto found = std::find(data.tokens.begin(), data.tokens.end(), text);
  if (found == data.tokens.end()) return std::nullopt;
  return static_cast<int32_t>(found - data.tokens.begin());
}

}  // namespace

TokenizerData parse_tokenizer_json(std::string_view json, const std::string& source) {
  const Json document = parse_json(json, source);
  const JsonPlace root(document, source);
  const JsonPlace model = root.at("model");
  check_normalizer(root);
  check_pre_tokenizer(root);
  check_model(model);
  TokenizerData data;
  read_tokens(root, model, data);
  const JsonPlace merges = model.at("merges");
  data.merges.reserve(merges.array().size());
  for (size_t i = 0; i < merges.array().size(); ++i) data.merges.push_back(read_merge(merges.element(i)));
  // The file has no word on them; these are the family's names. tokenizer_config.json may name others.
  data.bos = find_token(data, "<｜begin▁of▁sentence｜>");
  data.eos = find_token(data, "<｜end▁of▁sentence｜>");
  data.pad = find_token(data, "<｜▁pad▁｜>");
  return data;
}

}  // namespace sluice
