// Finds tokens that are cut out of a text before it is split: the leftmost first, the longest at one place.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct SpecialToken {
  std::string text;  // not empty, valid UTF-8
  int32_t id;
};

class SpecialTokenFinder {
 public:
  explicit SpecialTokenFinder(std::vector<SpecialToken> tokens);

  struct Match {
    size_t begin;
    size_t length;
    int32_t id;
  };
  /// The first token at or after `from`.
  [[nodiscard]] std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  [[nodiscard]] const SpecialToken* longest_prefix(std::string_view text) const;

  std::vector<SpecialToken> tokens_;  // sorted by bytes
  std::bitset<256> first_bytes_;
};

}  // namespace sluice
