// `sluice inspect FILE`: what a model file holds.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error when the file cannot be read.
void add_inspect_command(CLI::App& app);

}  // namespace sluice::cli
