// `sluice convert DIR OUT.gguf`: a Hugging Face checkpoint becomes a GGUF file.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error and leaves no partial file.
void add_convert_command(CLI::App& app);

}  // namespace sluice::cli
