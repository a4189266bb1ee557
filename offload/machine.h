// The machine we run on, as plain data.
#pragma once

#include <cstdint>
#include <string>

namespace sluice::offload {

struct Machine {
  std::string cpu_name;
  int64_t numa_nodes = 1;
  int64_t cores = 1;             // physical cores this process may run on
  int64_t hardware_threads = 1;  // with SMT siblings
  int64_t l3_bytes = 0;          // sum over caches; 0 when unknown
  int64_t memory_bytes = 0;
};

/// Asks hwloc. Throws Error when the topology cannot be read.
Machine probe_machine();

}  // namespace sluice::offload
