// Where memory and threads really are, asked of the kernel and not of hwloc, so that it can contradict
// offload/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::testing {

/// The pages of a range by the node they lie on.
struct PagePlaces {
  std::vector<int64_t> on_node;  // [nodes] pages
  int64_t absent = 0;            // pages that no memory stands behind yet
};

/// Counts the pages that `bytes` touches (move_pages(2) without a move). `nodes` is how many nodes there may
/// be. Throws Error when the kernel refuses or names another node.
PagePlaces page_places(std::span<const std::byte> bytes, int64_t nodes);

/// "512 pages on node 0, 3 on node 1, 1 absent"; what is zero is left out.
std::string describe(const PagePlaces& places);

/// True when there is a page and every page lies on `node`.
bool all_on_node(const PagePlaces& places, int64_t node);

/// The node of each online CPU as /sys tells it: [CPUs], -1 for a CPU of no node. Throws Error when it cannot
/// be read.
std::vector<int64_t> node_of_cpus();

}  // namespace sluice::testing
