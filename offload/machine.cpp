#include "offload/machine.h"

#include <hwloc.h>

#include <algorithm>
#include <memory>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

Topology load_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    throw Error("machine topology", "hwloc to start", "an error");
  }
  Topology topology(raw);
  if (hwloc_topology_load(raw) != 0) {
    throw Error("machine topology", "hwloc to read it", "an error");
  }
  return topology;
}

int64_t count(hwloc_topology_t topology, hwloc_obj_type_t type) {
  return std::max(hwloc_get_nbobjs_by_type(topology, type), 0);
}

int64_t l3_bytes(hwloc_topology_t topology) {
  int64_t total = 0;
  for (hwloc_obj_t cache = nullptr;
       (cache = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_L3CACHE, cache)) != nullptr;) {
    total += static_cast<int64_t>(cache->attr->cache.size);
  }
  return total;
}

}  // namespace

Machine probe_machine() {
  const Topology topology = load_topology();
  Machine machine;
  // hwloc's default topology already leaves out processing units that the process may not use (cgroups,
  // affinity).
  machine.hardware_threads = std::max<int64_t>(count(topology.get(), HWLOC_OBJ_PU), 1);
  machine.cores = std::max<int64_t>(count(topology.get(), HWLOC_OBJ_CORE), 1);
  machine.numa_nodes = std::max<int64_t>(count(topology.get(), HWLOC_OBJ_NUMANODE), 1);
  machine.l3_bytes = l3_bytes(topology.get());
  const hwloc_obj_t root = hwloc_get_root_obj(topology.get());
  machine.memory_bytes = static_cast<int64_t>(root->total_memory);
  if (const char* name = hwloc_obj_get_info_by_name(root, "CPUModel")) {
    machine.cpu_name = name;
  } else if (const hwloc_obj_t package = hwloc_get_obj_by_type(topology.get(), HWLOC_OBJ_PACKAGE, 0)) {
    const char* package_name = hwloc_obj_get_info_by_name(package, "CPUModel");
    machine.cpu_name = package_name != nullptr ? package_name : "unknown CPU";
  }
  return machine;
}

}  // namespace sluice::offload
