// `sluice plan`: where a model would lie, every byte of it, and how fast it would be.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

void add_plan_command(CLI::App& app);

}  // namespace sluice::cli
