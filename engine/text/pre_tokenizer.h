// Splits text the way DeepSeek-V3's tokenizer does before byte-pair encoding: three Unicode regexes, one
// after the other (pattern source: docs/formats.md).
#pragma once

#include <array>
#include <memory>
#include <string_view>
#include <vector>

namespace sluice {

/// As tokenizer.json spells them, in the order they apply.
inline constexpr std::array<std::string_view, 3> kDeepSeekV3Patterns = {
    R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

class PreTokenizer {
 public:
  /// Compiles the patterns (PCRE2 with UTF and UCP, JIT when there is one). U+180E is no white space here
  /// although PCRE2 thinks so.
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// Pieces in order; together they are exactly `text`. They point into it. `text` is valid UTF-8 (asserted
  /// by the caller: Tokenizer::encode).
  [[nodiscard]] std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct Patterns;
  std::unique_ptr<Patterns> patterns_;
};

}  // namespace sluice
