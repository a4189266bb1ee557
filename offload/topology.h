// hwloc's topology of the machine behind an owner, for the files of this folder that ask hwloc.
#pragma once

#include <hwloc.h>

#include <filesystem>
#include <memory>
#include <string>

namespace sluice::offload {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

enum class TopologyDetail { kCpusAndMemory, kWithDevices };

/// This machine's (or the one that hwloc's environment variables name). Throws Error.
Topology load_topology(TopologyDetail detail);
Topology load_synthetic_topology(const std::string& description);
Topology load_xml_topology(const std::filesystem::path& path);

}  // namespace sluice::offload
