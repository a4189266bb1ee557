#include "offload/thread_places.h"

#include <algorithm>
#include <cassert>

namespace sluice::offload {
namespace {

// The hardware threads of a node in the order in which they are taken: every core's first, then siblings.
std::vector<int32_t> cpus_in_order(const NumaNode& node) {
  std::vector<int32_t> cpus;
  for (size_t sibling = 0;; ++sibling) {
    const size_t before = cpus.size();
    for (const Core& core : node.cores) {
      if (sibling < core.cpus.size()) {
        cpus.push_back(core.cpus[sibling]);
      }
    }
    if (cpus.size() == before) {
      return cpus;
    }
  }
}

// Threads per node. One after the other goes where the share of taken processors is smallest.
std::vector<int64_t> threads_per_node(const std::vector<int64_t>& room, int64_t threads) {
  std::vector<int64_t> taken(room.size());
  for (int64_t t = 0; t < threads; ++t) {
    size_t best = room.size();
    for (size_t node = 0; node < room.size(); ++node) {
      const bool fits = taken[node] < room[node];
      // taken / room < best's taken / room, without dividing
      if (fits && (best == room.size() || taken[node] * room[best] < taken[best] * room[node])) {
        best = node;
      }
    }
    assert(best < room.size());
    ++taken[best];
  }
  return taken;
}

}  // namespace

std::vector<ThreadPlace> place_threads(const Machine& machine, int64_t threads) {
  assert(threads >= 1);
  const bool bound = threads <= machine.hardware_threads;
  std::vector<int64_t> room;
  for (const NumaNode& node : machine.nodes) {
    const auto cores = static_cast<int64_t>(node.cores.size());
    const auto all = static_cast<int64_t>(cpus_in_order(node).size());
    room.push_back(threads <= machine.cores ? cores : bound ? all : cores == 0 ? 0 : threads);
  }
  const std::vector<int64_t> counts = threads_per_node(room, threads);
  std::vector<ThreadPlace> places;
  for (size_t n = 0; n < counts.size(); ++n) {
    const std::vector<int32_t> cpus = cpus_in_order(machine.nodes[n]);
    for (int64_t t = 0; t < counts[n]; ++t) {
      places.push_back({.cpu = bound ? cpus[static_cast<size_t>(t)] : -1, .node = static_cast<int32_t>(n)});
    }
  }
  return places;
}

}  // namespace sluice::offload
