#include "engine/cli/machine_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "engine/cli/common_options.h"
#include "offload/bandwidth.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

/// Of the installation, else next to the sources.
std::filesystem::path machines_directory() {
  const std::filesystem::path installed = installed_data_directory() / "machines";
  std::error_code ignored;
  return std::filesystem::is_directory(installed, ignored)
             ? installed
             : std::filesystem::path(SLUICE_SOURCE_MACHINES_DIR);
}

offload::MachineProfile this_machine() {
  const std::filesystem::path path =
      offload::profile_path(offload::probe_machine(), offload::cache_directory());
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) {
    throw Error("this machine", "measurements of `sluice tune`, which takes less than a minute, or --machine",
                path.empty() ? "neither XDG_CACHE_HOME nor HOME set" : "no " + path.string());
  }
  return offload::read_profile(path);
}

}  // namespace

void MachineOptions::add_to(CLI::App& app) {
  app.add_option("--machine", machine,
                 fmt::format("Plan for this machine: a file as `sluice tune` writes it, or one of {} "
                             "(default: this machine, as `sluice tune` measured it)",
                             fmt::join(machine_names(), ", ")))
      ->type_name("FILE|NAME");
}

offload::MachineProfile MachineOptions::read() const {
  if (machine.empty()) {
    return this_machine();
  }
  const std::vector<std::string> names = machine_names();
  if (std::ranges::find(names, machine) != names.end()) {
    return offload::read_profile(machines_directory() / (machine + ".json"));
  }
  std::error_code ignored;
  if (!std::filesystem::exists(machine, ignored)) {
    throw Error("--machine", fmt::format("a file, or one of {}", fmt::join(names, ", ")), machine);
  }
  return offload::read_profile(machine);
}

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(machines_directory(), missing)) {
    if (entry.path().extension() == ".json") {
      names.push_back(entry.path().stem().string());
    }
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace sluice::cli
