// How fast the machine's memory can be read: measured once, then remembered in a file.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "offload/machine.h"

namespace sluice::offload {

/// GB are 1e9 bytes.
struct Bandwidth {
  std::vector<double> node_gb_per_s;  // [nodes] a node's cores on its own memory; 0 for nodes without cores
  double total_gb_per_s = 0;          // all nodes at the same time
};

/// Reads buffers beyond the last-level caches with one thread per core; less than two seconds. Throws Error
/// when there is no memory for the buffers.
Bandwidth measure_bandwidth(const Machine& machine);

struct KnownBandwidth {
  Bandwidth bandwidth;
  bool from_cache = false;
  std::string not_saved;  // why a measured one could not be kept; else empty
};

/// What `directory` remembers of this machine, else measured and remembered there. A file that cannot be read
/// or makes no sense is as good as none. An empty `directory` remembers nothing. Throws as `measure` does.
KnownBandwidth known_bandwidth(const Machine& machine, const std::filesystem::path& directory,
                               const std::function<Bandwidth(const Machine&)>& measure = measure_bandwidth);

/// $XDG_CACHE_HOME/sluice, else ~/.cache/sluice; empty when neither variable is set.
std::filesystem::path cache_directory();

}  // namespace sluice::offload
