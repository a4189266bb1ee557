// What hwloc says of this machine hangs together, and of machines that a description or a file tells of.
#include "offload/machine.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // setenv
#include <unistd.h>

#include <fstream>
#include <set>

#include "support/error_text.h"
#include "support/temporary_directory.h"

namespace sluice::offload {
namespace {

// The sums are those of the parts, and no processor is counted twice.
void expect_consistent(const Machine& machine) {
  int64_t cores = 0;
  int64_t memory = 0;
  int64_t l3 = 0;
  std::set<int32_t> cpus;
  std::set<int32_t> numbers;
  for (const NumaNode& node : machine.nodes) {
    EXPECT_TRUE(numbers.insert(node.os_index).second);
    cores += static_cast<int64_t>(node.cores.size());
    memory += node.memory_bytes;
    l3 += node.l3_bytes;
    for (const Core& core : node.cores) {
      EXPECT_FALSE(core.cpus.empty());
      for (const int32_t cpu : core.cpus) EXPECT_TRUE(cpus.insert(cpu).second) << cpu;
    }
  }
  EXPECT_EQ(machine.numa_nodes, static_cast<int64_t>(machine.nodes.size()));
  EXPECT_EQ(machine.cores, cores);
  EXPECT_EQ(machine.hardware_threads, static_cast<int64_t>(cpus.size()));
  EXPECT_GE(machine.memory_bytes, memory);  // a virtual machine's nodes may be told smaller than it has grown
  EXPECT_EQ(machine.l3_bytes, l3);
}

TEST(Machine, IsPlausible) {
  const Machine machine = probe_machine();
  expect_consistent(machine);
  EXPECT_GE(machine.cores, 1);
  EXPECT_GE(machine.numa_nodes, 1);
  EXPECT_GT(machine.memory_bytes, int64_t{1} << 20);
}

TEST(Machine, AvailableMemoryIsNoMoreThanInstalled) {
  const int64_t available = available_memory_bytes();
  EXPECT_GT(available, int64_t{1} << 20);
  EXPECT_LE(available, int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE));
}

TEST(Machine, SyntheticNodesCoresCaches) {
  const Machine machine =
      machine_from_synthetic("numa:2(memory=8589934592) l3:2(size=33554432) core:4 l2:1(size=1048576) pu:2");
  expect_consistent(machine);
  EXPECT_EQ(machine.numa_nodes, 2);
  EXPECT_EQ(machine.cores, 16);
  EXPECT_EQ(machine.hardware_threads, 32);
  EXPECT_EQ(machine.l3_bytes, 4 * 33554432);
  EXPECT_EQ(machine.l2_bytes, 1048576);
  ASSERT_EQ(machine.nodes.size(), 2);
  EXPECT_EQ(machine.nodes[0].os_index, 0);
  EXPECT_EQ(machine.nodes[1].os_index, 1);
  EXPECT_EQ(machine.nodes[1].memory_bytes, 8589934592);
  EXPECT_EQ(machine.nodes[1].l3_bytes, 2 * 33554432);
  ASSERT_EQ(machine.nodes[1].cores.size(), 8);
  EXPECT_EQ(machine.nodes[1].cores[0].cpus, (std::vector<int32_t>{16, 17}));
  EXPECT_TRUE(machine.gpus.empty());
}

TEST(Machine, SmallDescriptions) {
  const Machine machine = machine_from_synthetic("node:2 core:4 pu:2");
  expect_consistent(machine);
  EXPECT_EQ(machine.numa_nodes, 2);
  EXPECT_EQ(machine.cores, 8);
  EXPECT_EQ(machine.l3_bytes, 0);
  expect_consistent(machine_from_synthetic("pu:1"));
  EXPECT_EQ(machine_from_synthetic("pu:3").cores, 3);  // without cores every hardware thread is one
}

TEST(Machine, EnvironmentDescribesTheMachineToo) {
  setenv("HWLOC_SYNTHETIC", "numa:3 core:2 pu:1", 1);
  const Machine machine = probe_machine();
  unsetenv("HWLOC_SYNTHETIC");
  EXPECT_EQ(machine.numa_nodes, 3);
}

TEST(Machine, RefusesWhatIsNoDescription) {
  EXPECT_EQ(testing::error_text([] { return machine_from_synthetic("two nodes"); }),
            "synthetic topology: expected a description that hwloc understands, found \"two nodes\"");
}

// A GPU behind a bridge of the second of two packages with a node each, beside a network card.
constexpr const char* kXml = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
<object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3"
  nodeset="0x3" complete_nodeset="0x3" allowed_nodeset="0x3" gp_index="1">
<info name="CPUModel" value="A CPU"/>
<object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="2">
<object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
<object type="Core" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="4">
<object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="5"/>
</object></object>
<object type="Package" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="6">
<object type="NUMANode" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="7" local_memory="2147483648"/>
<object type="Core" os_index="0" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="8">
<object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2" complete_nodeset="0x2" gp_index="9"/>
</object>
<object type="Bridge" gp_index="10" bridge_type="0-1" depth="0" bridge_pci="0000:[80-ff]">
<object type="PCIDev" gp_index="11" pci_busid="0000:c1:00.0" pci_type="0302 [10de:2330] [10de:16c1] a1" pci_link_speed="0.0">
<info name="PCIDevice" value="A GPU"/></object>
<object type="PCIDev" gp_index="12" pci_busid="0000:c2:00.0" pci_type="0200 [15b3:1021] [15b3:0000] 00" pci_link_speed="0.0"/>
</object></object>
</object></topology>
)";

TEST(Machine, GpuAndItsNodeFromXml) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "machine.xml";
  std::ofstream(path) << kXml;
  const Machine machine = machine_from_xml(path);
  expect_consistent(machine);
  EXPECT_EQ(machine.cpu_name, "A CPU");
  ASSERT_EQ(machine.gpus.size(), 1);
  EXPECT_EQ(machine.gpus[0].name, "A GPU");
  EXPECT_EQ(machine.gpus[0].pci_address, "0000:c1:00.0");
  EXPECT_EQ(machine.gpus[0].node, 1);
}

TEST(Machine, RefusesWhatIsNoXml) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "machine.xml";
  std::ofstream(path) << "<topology>";
  EXPECT_NE(testing::error_text([&] { return machine_from_xml(path); }).find("machine.xml"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::offload
