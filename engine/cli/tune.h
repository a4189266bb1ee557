// `sluice tune`: measures this machine for `sluice plan`.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

void add_tune_command(CLI::App& app);

}  // namespace sluice::cli
