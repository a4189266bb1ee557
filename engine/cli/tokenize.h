// `sluice tokenize TEXT`: text to token ids and back.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error for invalid UTF-8, unknown ids, or a model without a
/// tokenizer.
void add_tokenize_command(CLI::App& app);

}  // namespace sluice::cli
