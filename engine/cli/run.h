// `sluice run`: the plain continuation of a text.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// `exit_code` is set when the command ends with another than 0; it must outlive the parse.
void add_run_command(CLI::App& app, int& exit_code);

}  // namespace sluice::cli
