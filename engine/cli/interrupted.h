// How a command that Ctrl-C or another signal stopped ends: after it said so, with exit code 130 and no
// further message.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/cli/interrupt.h"

namespace sluice::cli {

/// CLI11 passes the code of an error of this name on without a word; as a Success it is no wrong usage.
class Interrupted : public CLI::Success {
 public:
  Interrupted() : CLI::Success("RuntimeError", "interrupted", kInterruptedExit) {}
};

}  // namespace sluice::cli
