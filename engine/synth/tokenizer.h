// A made-up byte-level BPE vocabulary of any size that strict readers accept.
#pragma once

#include <cstdint>

#include "engine/text/tokenizer.h"

namespace sluice::synth {

/// Smallest vocabulary: DeepSeek's markers and the 256 bytes.
inline constexpr int64_t kSmallestVocabulary = 263;

/// `vocab_size` tokens: BOS (id 0), EOS (1), padding, the chat markers, the 256 bytes, then words of a to z,
/// some with a space before, shortest first, each with the merge that makes it. vocab_size >=
/// kSmallestVocabulary.
TokenizerData make_tokenizer(int64_t vocab_size);

}  // namespace sluice::synth
