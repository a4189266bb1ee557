// A parallel loop whose ranges belong to NUMA nodes: each is computed by a thread of its node.
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "offload/workers.h"

namespace sluice::offload {

class NodeLoop {
 public:
  /// `nodes` >= 1. A worker whose place names a node in [0, nodes) takes that node's ranges; ranges of nodes
  /// that have no such worker are taken by all. Keeps a reference to `workers`.
  NodeLoop(Workers& workers, int64_t nodes)
      : workers_(workers), next_(static_cast<size_t>(nodes)), staffed_(static_cast<size_t>(nodes)) {
    assert(nodes >= 1);
    for (const ThreadPlace& place : workers.places()) {
      if (place.node >= 0 && place.node < nodes) {
        staffed_[static_cast<size_t>(place.node)] = 1;
      }
    }
  }

  /// Calls fn(node, i, worker) for every i in [0, counts[node]) of every node, and waits for all; workers as
  /// in Workers::for_ranges, but fn must not throw. `counts` [nodes].
  template <typename Fn>
  void run(std::span<const int64_t> counts, Fn&& fn) {
    assert(counts.size() == next_.size());
    if (counts.size() == 1) {  // nobody has to wait for late workers here
      workers_.for_ranges(counts[0], 1,
                          [&](int64_t i, int64_t, int64_t worker) { fn(int64_t{0}, i, worker); });
      return;
    }
    for (Counter& counter : next_) {
      counter.value.store(0, std::memory_order_relaxed);
    }
    workers_.on_all([&](int64_t worker) {
      const int32_t home = workers_.places()[static_cast<size_t>(worker)].node;
      for (size_t node = 0; node < counts.size(); ++node) {
        if (static_cast<int32_t>(node) != home && staffed_[node] != 0) {
          continue;
        }
        for (int64_t i = 0; (i = next_[node].value.fetch_add(1, std::memory_order_relaxed)) < counts[node];) {
          fn(static_cast<int64_t>(node), i, worker);
        }
      }
    });
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value = 0;
  };
  Workers& workers_;
  std::vector<Counter> next_;
  std::vector<char> staffed_;
};

}  // namespace sluice::offload
