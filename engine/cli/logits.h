// `sluice logits --ids 1,2,3 --out F.npy`: what the model says of given tokens, for comparing
// implementations.
#pragma once

#include <CLI/CLI.hpp>

namespace sluice::cli {

/// Adds the command; its callback throws Error and leaves no partial file.
void add_logits_command(CLI::App& app);

}  // namespace sluice::cli
