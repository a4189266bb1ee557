#include "offload/topology.h"

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

Topology new_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    throw Error("machine topology", "hwloc to start", "an error");
  }
  return Topology(raw);
}

// PCI devices and where they are. The components that ask vendors' libraries would start their drivers, which
// takes seconds and memory, and tell nothing more that is wanted here.
void keep_devices(const Topology& topology) {
  for (const char* component : {"opencl", "cuda", "nvml", "rsmi", "levelzero", "gl"}) {
    hwloc_topology_set_components(topology.get(), HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, component);
  }
  hwloc_topology_set_io_types_filter(topology.get(), HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
}

Topology loaded(Topology topology, const std::string& subject) {
  if (hwloc_topology_load(topology.get()) != 0) {
    throw Error(subject, "a topology that hwloc can load", "an error");
  }
  return topology;
}

}  // namespace

Topology load_topology(TopologyDetail detail) {
  Topology topology = new_topology();
  if (detail == TopologyDetail::kWithDevices) {
    keep_devices(topology);
  }
  return loaded(std::move(topology), "machine topology");
}

Topology load_synthetic_topology(const std::string& description) {
  Topology topology = new_topology();
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0) {
    throw Error("synthetic topology", "a description that hwloc understands", "\"" + description + "\"");
  }
  return loaded(std::move(topology), "synthetic topology");
}

Topology load_xml_topology(const std::filesystem::path& path) {
  Topology topology = new_topology();
  keep_devices(topology);
  if (hwloc_topology_set_xml(topology.get(), path.c_str()) != 0) {
    throw Error(path.string(), "a topology in hwloc's XML", "something else");
  }
  return loaded(std::move(topology), path.string());
}

}  // namespace sluice::offload
