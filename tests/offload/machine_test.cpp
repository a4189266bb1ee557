// What hwloc says of this machine hangs together, and of machines that HWLOC_SYNTHETIC describes.
#include "offload/machine.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

namespace sluice::offload {
namespace {

TEST(Machine, IsPlausible) {
  const Machine machine = probe_machine();
  EXPECT_GE(machine.cores, 1);
  EXPECT_GE(machine.hardware_threads, machine.cores);
  EXPECT_GE(machine.numa_nodes, 1);
  EXPECT_GT(machine.memory_bytes, int64_t{1} << 20);
  EXPECT_GE(machine.l3_bytes, 0);
}

class SyntheticMachine : public ::testing::Test {
 protected:
  explicit SyntheticMachine(const char* description = "numa:2 l3:2(size=33554432) core:4 pu:2") {
    setenv("HWLOC_SYNTHETIC", description, 1);
  }
  ~SyntheticMachine() override { unsetenv("HWLOC_SYNTHETIC"); }
};

TEST_F(SyntheticMachine, CoresCachesAndNodesAreCounted) {
  const Machine machine = probe_machine();
  EXPECT_EQ(machine.numa_nodes, 2);
  EXPECT_EQ(machine.cores, 16);
  EXPECT_EQ(machine.hardware_threads, 32);
  EXPECT_EQ(machine.l3_bytes, 4 * 33554432);
}

}  // namespace
}  // namespace sluice::offload
