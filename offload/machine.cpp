#include "offload/machine.h"

#include <fmt/format.h>

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "offload/topology.h"
#include "quant/base/error.h"

namespace sluice::offload {
namespace {

// All objects of a type, in hwloc's logical order.
template <typename Visit>
void for_each(hwloc_topology_t topology, hwloc_obj_type_t type, Visit&& visit) {
  for (hwloc_obj_t object = nullptr;
       (object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr;) {
    visit(object);
  }
}

std::string cpu_name(hwloc_topology_t topology) {
  const hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  for (const hwloc_obj_t object : {hwloc_get_root_obj(topology), package}) {
    const char* name = object == nullptr ? nullptr : hwloc_obj_get_info_by_name(object, "CPUModel");
    if (name != nullptr) {
      return name;
    }
  }
  return "unknown CPU";
}

bool contains(hwloc_const_bitmap_t set, hwloc_const_bitmap_t part) {
  return !hwloc_bitmap_iszero(part) && hwloc_bitmap_isincluded(part, set) != 0;
}

// The first node whose set of processors holds `cpus`: of several that share processors (HBM beside DRAM),
// hwloc lists the ordinary memory first.
std::optional<size_t> node_of(hwloc_topology_t topology, hwloc_const_bitmap_t cpus) {
  std::optional<size_t> found;
  size_t index = 0;
  for_each(topology, HWLOC_OBJ_NUMANODE, [&](hwloc_obj_t node) {
    if (!found.has_value() && contains(node->cpuset, cpus)) {
      found = index;
    }
    ++index;
  });
  return found;
}

Core core_of(hwloc_obj_t object) {
  Core core;
  for (int cpu = hwloc_bitmap_first(object->cpuset); cpu != -1;
       cpu = hwloc_bitmap_next(object->cpuset, cpu)) {
    core.cpus.push_back(cpu);
  }
  return core;
}

std::vector<NumaNode> nodes_of(hwloc_topology_t topology) {
  std::vector<NumaNode> nodes;
  for_each(topology, HWLOC_OBJ_NUMANODE, [&](hwloc_obj_t object) {
    nodes.push_back({.os_index = static_cast<int32_t>(object->os_index),
                     .memory_bytes = static_cast<int64_t>(object->attr->numanode.local_memory),
                     .l3_bytes = 0,
                     .cores = {}});
  });
  if (nodes.empty()) {  // hwloc promises one; without it there would be nowhere to put a core
    throw Error("machine topology", "at least one NUMA node", "none");
  }
  // A machine that does not tell cores from hardware threads has cores of one.
  const bool knows_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;
  for_each(topology, knows_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU, [&](hwloc_obj_t object) {
    nodes[node_of(topology, object->cpuset).value_or(0)].cores.push_back(core_of(object));
  });
  for_each(topology, HWLOC_OBJ_L3CACHE, [&](hwloc_obj_t cache) {
    nodes[node_of(topology, cache->cpuset).value_or(0)].l3_bytes +=
        static_cast<int64_t>(cache->attr->cache.size);
  });
  return nodes;
}

constexpr unsigned kDisplayClass = 0x03;  // PCI base class of GPUs, whether or not they drive a screen

std::vector<Gpu> gpus_of(hwloc_topology_t topology) {
  std::vector<Gpu> gpus;
  for (hwloc_obj_t device = nullptr; (device = hwloc_get_next_pcidev(topology, device)) != nullptr;) {
    const auto& pci = device->attr->pcidev;
    if (pci.class_id >> 8 != kDisplayClass) {
      continue;
    }
    const char* name = hwloc_obj_get_info_by_name(device, "PCIDevice");
    const hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology, device);
    const auto node = near == nullptr ? std::nullopt : node_of(topology, near->cpuset);
    gpus.push_back(
        {.name = name == nullptr ? "" : name,
         .pci_address = fmt::format("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.dev, pci.func),
         .node = node.has_value() ? static_cast<int32_t>(*node) : -1});
  }
  return gpus;
}

Machine describe(hwloc_topology_t topology) {
  Machine machine;
  machine.cpu_name = cpu_name(topology);
  machine.nodes = nodes_of(topology);
  machine.gpus = gpus_of(topology);
  machine.numa_nodes = static_cast<int64_t>(machine.nodes.size());
  machine.cores = 0;
  machine.hardware_threads = 0;
  for (const NumaNode& node : machine.nodes) {
    machine.memory_bytes += node.memory_bytes;
    machine.l3_bytes += node.l3_bytes;
    machine.cores += static_cast<int64_t>(node.cores.size());
    for (const Core& core : node.cores) {
      machine.hardware_threads += static_cast<int64_t>(core.cpus.size());
    }
  }
  if (const hwloc_obj_t l2 = hwloc_get_obj_by_type(topology, HWLOC_OBJ_L2CACHE, 0); l2 != nullptr) {
    machine.l2_bytes = static_cast<int64_t>(l2->attr->cache.size);
  }
  return machine;
}

// The number that a file holds, alone or after `key`; empty when there is none ("max", no file).
std::optional<int64_t> number_in(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  int64_t number = 0;
  for (std::string word; file >> word;) {
    if (word == key && file >> number) {
      return number;
    }
    if (key.empty()) {
      const bool digits = word.find_first_not_of("0123456789") == std::string::npos && word.size() < 19;
      return digits ? std::optional<int64_t>(std::stoll(word)) : std::nullopt;
    }
  }
  return std::nullopt;
}

struct CgroupFiles {
  const char* limit;
  const char* used;
  const char* statistics;
};
constexpr CgroupFiles kCgroups[] = {
    {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"},
    {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat"},
};

// What the memory cgroup mounted here leaves; inside a container that is the container's limit. File pages
// count as used and are given up when memory is asked for.
int64_t cgroup_room() {
  for (const CgroupFiles& files : kCgroups) {
    const auto limit = number_in(files.limit, "");
    if (limit.has_value()) {
      const int64_t file_pages = number_in(files.statistics, "active_file").value_or(0) +
                                 number_in(files.statistics, "inactive_file").value_or(0);
      const int64_t used = number_in(files.used, "").value_or(0);
      return std::max<int64_t>(*limit - std::max<int64_t>(used - file_pages, 0), 0);
    }
  }
  return std::numeric_limits<int64_t>::max();
}

// What the limits of the process (ulimit -v, -d) leave of its address space and of its data.
int64_t limits_room() {
  int64_t room = std::numeric_limits<int64_t>::max();
  for (const auto& [resource, used] : {std::pair(RLIMIT_AS, "VmSize:"), std::pair(RLIMIT_DATA, "VmData:")}) {
    rlimit limit{};
    if (getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
      const int64_t used_bytes = number_in("/proc/self/status", used).value_or(0) * 1024;
      room = std::min(room, std::max<int64_t>(static_cast<int64_t>(limit.rlim_cur) - used_bytes, 0));
    }
  }
  return room;
}

}  // namespace

Machine probe_machine() {
  // hwloc's default topology already leaves out processors that the process may not use.
  Machine machine = describe(load_topology(TopologyDetail::kWithDevices).get());
  // The node of a virtual machine may be told smaller than its memory is.
  machine.memory_bytes =
      std::max(machine.memory_bytes, number_in("/proc/meminfo", "MemTotal:").value_or(0) * 1024);
  return machine;
}

Machine machine_from_synthetic(const std::string& description) {
  return describe(load_synthetic_topology(description).get());
}

Machine machine_from_xml(const std::filesystem::path& path) {
  return describe(load_xml_topology(path).get());
}

int64_t available_memory_bytes() {
  const auto kib = number_in("/proc/meminfo", "MemAvailable:");
  if (!kib.has_value()) {
    throw Error("/proc/meminfo", "a line MemAvailable", "none");
  }
  return std::min({*kib * 1024, cgroup_room(), limits_room()});
}

}  // namespace sluice::offload
