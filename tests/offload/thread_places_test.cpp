// Threads on cores: one each, spread over the nodes, siblings last.
#include "offload/thread_places.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

Machine machine_of(const std::vector<int64_t>& cores_per_node, int64_t siblings) {
  Machine machine;
  machine.cores = 0;
  int32_t cpu = 0;
  for (const int64_t cores : cores_per_node) {
    NumaNode node;
    node.os_index = 10 + static_cast<int32_t>(machine.nodes.size());
    node.cores.resize(static_cast<size_t>(cores));
    machine.nodes.push_back(node);
    machine.cores += cores;
  }
  for (int64_t sibling = 0; sibling < siblings; ++sibling) {  // numbered as Linux does: siblings last
    for (NumaNode& node : machine.nodes) {
      for (Core& core : node.cores) core.cpus.push_back(cpu++);
    }
  }
  machine.numa_nodes = static_cast<int64_t>(machine.nodes.size());
  machine.hardware_threads = cpu;
  return machine;
}

std::map<int32_t, int64_t> per_node(const std::vector<ThreadPlace>& places) {
  std::map<int32_t, int64_t> counts;
  for (const ThreadPlace& place : places) ++counts[place.node];
  return counts;
}

TEST(ThreadPlaces, CoresFirstThenSiblingsThenNobodyIsBound) {
  const Machine machine = machine_of({4, 4}, 2);
  for (int64_t threads = 1; threads <= 20; ++threads) {
    const auto places = place_threads(machine, threads);
    ASSERT_EQ(static_cast<int64_t>(places.size()), threads);
    std::set<int32_t> cpus;
    for (const ThreadPlace& place : places) {
      if (threads > 16) {
        EXPECT_EQ(place.cpu, -1);
        continue;
      }
      EXPECT_TRUE(cpus.insert(place.cpu).second) << "two threads on " << place.cpu;
      EXPECT_LT(place.cpu, threads <= 8 ? 8 : 16);
      EXPECT_EQ(place.cpu % 8 / 4, place.node);
    }
    const auto counts = per_node(places);
    EXPECT_LE(std::abs(counts.at(0) - (threads - counts.at(0))), 1) << threads;
  }
}

TEST(ThreadPlaces, SpreadInProportionToTheCores) {
  const Machine machine = machine_of({6, 2, 0}, 1);
  EXPECT_EQ(per_node(place_threads(machine, 4)), (std::map<int32_t, int64_t>{{0, 3}, {1, 1}}));
  EXPECT_EQ(per_node(place_threads(machine, 8)), (std::map<int32_t, int64_t>{{0, 6}, {1, 2}}));
  EXPECT_EQ(per_node(place_threads(machine, 40)).count(2), 0);  // memory without processors computes nothing
}

TEST(ThreadPlaces, RandomMachines) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<int64_t> cores;
    for (int64_t n = random.integer(1, 8); n > 0; --n) cores.push_back(random.integer(0, 6));
    cores[0] = std::max<int64_t>(cores[0], 1);
    const Machine machine = machine_of(cores, random.integer(1, 4));
    const int64_t threads = random.integer(1, machine.hardware_threads);
    std::set<int32_t> cpus;
    int32_t node = 0;
    for (const ThreadPlace& place : place_threads(machine, threads)) {
      EXPECT_TRUE(cpus.insert(place.cpu).second);
      EXPECT_GE(place.node, node) << "a node's threads follow one another";
      node = place.node;
      bool inside = false;
      for (const Core& core : machine.nodes[static_cast<size_t>(node)].cores) {
        for (const int32_t cpu : core.cpus) inside = inside || cpu == place.cpu;
      }
      EXPECT_TRUE(inside);
    }
    EXPECT_EQ(static_cast<int64_t>(cpus.size()), threads);
  }
}

}  // namespace
}  // namespace sluice::offload
