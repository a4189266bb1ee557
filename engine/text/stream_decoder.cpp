// Ids to text while they arrive. Ill-formed bytes become U+FFFD, one for each longest beginning of a
// character, so the whole stream reads as if it had been decoded at once.
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace sluice {

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_->token_bytes(id);
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.status == Utf8Status::kIncomplete) break;
    text += step.status == Utf8Status::kComplete ? rest.substr(0, step.length) : kReplacementCharacter;
    rest.remove_prefix(step.length);
  }
  pending_ = std::string(rest);
  return text;
}

std::string StreamDecoder::finish() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? std::string(kReplacementCharacter) : std::string();
}

}  // namespace sluice
