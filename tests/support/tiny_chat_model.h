// A small random model file with a tokenizer, for running the program on.
#pragma once

#include <cstdint>
#include <filesystem>

#include "support/temporary_directory.h"

namespace sluice::testing {

/// Its context. Far longer than any test waits for.
inline constexpr int64_t kTinyChatContext = 200000;

/// Made once per test program, removed at its end. The output row of the end-of-sentence token is zero: with
/// --temp 0 or a --top-k of a few tokens it is not chosen, and an answer ends only where the flags say.
const std::filesystem::path& tiny_chat_model();

/// The same without a tokenizer.
const std::filesystem::path& tiny_model_without_tokenizer();

}  // namespace sluice::testing
