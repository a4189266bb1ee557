// The machine we run on, as plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sluice::offload {

/// A physical core. `cpus` are the operating system's numbers of its hardware threads; the second and later
/// ones are SMT siblings.
struct Core {
  std::vector<int32_t> cpus;
};

/// Memory and the cores that are nearest to it.
struct NumaNode {
  int32_t os_index = 0;      // the operating system's number
  int64_t memory_bytes = 0;  // installed
  int64_t l3_bytes = 0;      // sum over the caches of its cores; 0 when unknown
  std::vector<Core> cores;   // empty for memory without processors (CXL, a node that the process may not use)
};

struct Gpu {
  std::string name;         // as the PCI database calls it, or empty
  std::string pci_address;  // "0000:65:00.0"
  int32_t node = -1;        // index into Machine::nodes; -1 when the machine does not say
};

struct Machine {
  std::string cpu_name;
  int64_t numa_nodes = 1;
  int64_t cores = 1;             // physical cores this process may run on
  int64_t hardware_threads = 1;  // with SMT siblings
  int64_t l2_bytes = 0;          // of one core; 0 when unknown
  int64_t l3_bytes = 0;          // sum over caches; 0 when unknown
  int64_t memory_bytes = 0;
  std::vector<NumaNode> nodes;  // at least one
  std::vector<Gpu> gpus;
};

/// Asks hwloc; what the process may not use (affinity, cgroups) is left out. Throws Error when the topology
/// cannot be read.
Machine probe_machine();

/// A machine that hwloc's synthetic description tells of, "numa:2 core:4 pu:2". Throws Error naming it when
/// hwloc does not understand it.
Machine machine_from_synthetic(const std::string& description);

/// A machine saved by `lstopo FILE.xml`. Throws Error naming the file.
Machine machine_from_xml(const std::filesystem::path& path);

/// Bytes that may be allocated now without swapping: what the kernel counts as available, and no more than
/// the process's memory cgroup leaves. Throws Error when the system does not say.
int64_t available_memory_bytes();

}  // namespace sluice::offload
