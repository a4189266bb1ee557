// The machine as offload/ and the kernel see it.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "offload/machine.h"
#include "tests/numa/checks.h"
#include "tests/numa/placement.h"

namespace sluice::testing {

void check_machine(const Expected& expected, Report& report) {
  const offload::Machine machine = offload::probe_machine();
  report.check_equal("probe_machine: nodes", expected.nodes, machine.numa_nodes);
  report.check_equal("probe_machine: cores", expected.nodes * expected.cores_per_node, machine.cores);
  const std::vector<int64_t> cpus = node_of_cpus();
  for (int64_t node = 0; node < expected.nodes; ++node) {
    report.check_equal(fmt::format("/sys: CPUs of node {}", node), expected.cores_per_node,
                       std::count(cpus.begin(), cpus.end(), node));
  }
}

}  // namespace sluice::testing
