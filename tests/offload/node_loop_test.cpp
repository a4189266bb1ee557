// Ranges of nodes meet their nodes' workers.
#include "offload/node_loop.h"

#include <gtest/gtest.h>

#include <atomic>

#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

TEST(NodeLoop, EveryIndexOnceByAWorkerOfItsNode) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t nodes = random.integer(1, 4);
    std::vector<ThreadPlace> places;
    std::vector<bool> staffed(static_cast<size_t>(nodes));
    for (int64_t t = random.integer(1, 5); t > 0; --t) {
      // A place may name a node that has no experts.
      places.push_back({.cpu = -1, .node = static_cast<int32_t>(random.integer(0, nodes))});
      if (places.back().node < nodes) staffed[static_cast<size_t>(places.back().node)] = true;
    }
    Workers workers(places);
    NodeLoop loop(workers, nodes);
    for (int round = 0; round < 5; ++round) {
      std::vector<int64_t> counts;
      std::vector<std::vector<std::atomic<int>>> visits;
      for (int64_t n = 0; n < nodes; ++n) {
        counts.push_back(random.integer(0, 30));
        visits.emplace_back(static_cast<size_t>(counts.back()));
      }
      std::atomic<int> strangers = 0;
      loop.run(counts, [&](int64_t node, int64_t i, int64_t worker) {
        ++visits[static_cast<size_t>(node)][static_cast<size_t>(i)];
        const bool home = places[static_cast<size_t>(worker)].node == node;
        if (nodes > 1 && staffed[static_cast<size_t>(node)] && !home) ++strangers;
      });
      for (const auto& node : visits) {
        for (const std::atomic<int>& count : node) ASSERT_EQ(count, 1);
      }
      EXPECT_EQ(strangers, 0);
    }
  }
}

}  // namespace
}  // namespace sluice::offload
