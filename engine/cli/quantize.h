// `sluice quantize IN.gguf OUT.gguf TYPE`: a GGUF file with other tensor types.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error and leaves no partial file.
void add_quantize_command(CLI::App& app);

}  // namespace sluice::cli
