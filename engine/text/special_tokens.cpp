// The tokens are sorted, so those that share a beginning with the text are one range, narrowed byte by byte.
#include "engine/text/special_tokens.h"

#include <algorithm>

namespace sluice {
namespace {

// Orders tokens of one range by their byte at `depth`; one that ends there comes first. std::string compares
// its bytes as unsigned values, and so does this.
struct ByteAt {
  size_t depth;
  [[nodiscard]] int at(const SpecialToken& token) const {
    return depth < token.text.size() ? static_cast<uint8_t>(token.text[depth]) : -1;
  }
  bool operator()(const SpecialToken& token, int byte) const { return at(token) < byte; }
  bool operator()(int byte, const SpecialToken& token) const { return byte < at(token); }
};

}  // namespace

SpecialTokenFinder::SpecialTokenFinder(std::vector<SpecialToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  for (const SpecialToken& token : tokens_) first_bytes_.set(static_cast<uint8_t>(token.text[0]));
}

const SpecialToken* SpecialTokenFinder::longest_prefix(std::string_view text) const {
  const SpecialToken* longest = nullptr;
  auto range = std::pair(tokens_.begin(), tokens_.end());
  for (size_t depth = 0; depth < text.size(); ++depth) {
    range = std::equal_range(range.first, range.second, static_cast<int>(static_cast<uint8_t>(text[depth])),
                             ByteAt{depth});
    if (range.first == range.second) break;
    if (range.first->text.size() == depth + 1) longest = &*range.first;
  }
  return longest;
}

std::optional<SpecialTokenFinder::Match> SpecialTokenFinder::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!first_bytes_[static_cast<uint8_t>(text[at])]) continue;
    const SpecialToken* token = longest_prefix(text.substr(at));
    if (token != nullptr) return Match{at, token->text.size(), token->id};
  }
  return std::nullopt;
}

}  // namespace sluice
