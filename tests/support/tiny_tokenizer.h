// A small byte-level BPE tokenizer in Hugging Face's files.
#pragma once

#include <filesystem>

namespace sluice::testing {

/// Tokens of tokenizer.json: seven special ones (ids 0 to 6: bos, eos, pad, user, assistant, think, end of
/// think), the 256 bytes, and the results of six merges ("th", "the", "in", "er", " the", "an").
inline constexpr int kTinyTokens = 269;

/// Writes tokenizer.json and tokenizer_config.json.
void write_tiny_tokenizer(const std::filesystem::path& directory);

}  // namespace sluice::testing
