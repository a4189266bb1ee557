// `sluice synth OUT.gguf`: a model of real shapes with random weights, to measure speed with.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error and leaves no partial file.
void add_synth_command(CLI::App& app);

}  // namespace sluice::cli
