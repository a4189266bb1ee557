// Which machine is planned for: the one that was measured here, or one that a file or a name tells of.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "offload/machine_profile.h"

namespace sluice::cli {

/// --machine.
struct MachineOptions {
  std::string machine;  // a file, or the name of one that comes with the program; empty: this one

  void add_to(CLI::App& app);
  /// Throws Error naming --machine and the names there are, or saying that `sluice tune` has not run here.
  [[nodiscard]] offload::MachineProfile read() const;
};

/// Names of the machines that come with the program, in order: "rtx4090-768gb-ddr5-12ch".
std::vector<std::string> machine_names();

}  // namespace sluice::cli
