// `sluice bench`: tokens per second of prefill and generation, for every combination of the values given.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command.
void add_bench_command(CLI::App& app);

}  // namespace sluice::cli
