// `sluice perplexity -f FILE`: how well the model predicts a text.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error for a text too short for one window.
void add_perplexity_command(CLI::App& app);

}  // namespace sluice::cli
