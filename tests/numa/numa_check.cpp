// Checks on a machine of several NUMA nodes that offload/ sees them and puts memory and threads where it
// says. tests/numa/README.md says how it is run; one line per check, exit status 1 when one failed.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>
#include <span>
#include <string_view>
#include <vector>

#include "offload/machine.h"
#include "quant/base/error.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

struct Expected {
  int64_t nodes = 2;
  int64_t cores_per_node = 2;
};

class Report {
 public:
  void check(bool passed, std::string_view what, std::string_view found) {
    fmt::print("{:6}  {}: {}\n", passed ? "ok" : "FAILED", what, found);
    failed_ |= !passed;
  }
  void check_equal(std::string_view what, int64_t expected, int64_t found) {
    check(
        found == expected, what,
        found == expected ? fmt::format("{}", found) : fmt::format("expected {}, found {}", expected, found));
  }
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

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

/// Memory bound to a node by a system call and written: what Arena is compared with.
class BoundPages {
 public:
  BoundPages(size_t bytes, int64_t node) : bytes_(bytes) {
    constexpr int kBind = 2;  // MPOL_BIND of <linux/mempolicy.h>
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw Error("mmap", fmt::format("{} bytes", bytes), system_error_text(errno));
    }
    memory_ = static_cast<std::byte*>(memory);
    const unsigned long nodes = 1UL << node;
    if (syscall(SYS_mbind, memory_, bytes_, kBind, &nodes, 8 * sizeof nodes, 0) != 0) {
      const int reason = errno;
      munmap(memory_, bytes_);
      throw Error("mbind", fmt::format("node {}", node), system_error_text(reason));
    }
    std::memset(memory_, 1, bytes_);
  }
  ~BoundPages() { munmap(memory_, bytes_); }
  BoundPages(const BoundPages&) = delete;
  BoundPages& operator=(const BoundPages&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {memory_, bytes_}; }

 private:
  std::byte* memory_ = nullptr;
  size_t bytes_;
};

/// The judge itself: it must see pages where a system call put them, and object when they are elsewhere.
void check_judge(const Expected& expected, Report& report) {
  constexpr size_t kBytes = size_t{4} << 20;
  for (int64_t node = 0; node < expected.nodes; ++node) {
    const BoundPages pages(kBytes, node);
    const PagePlaces places = page_places(pages.bytes(), expected.nodes);
    report.check(all_on_node(places, node), fmt::format("pages bound to node {} are seen there", node),
                 describe(places));
    const int64_t other = (node + 1) % expected.nodes;
    report.check(!all_on_node(places, other), fmt::format("and are not taken for pages of node {}", other),
                 describe(places));
  }
}

bool parse(std::string_view text, int64_t least, int64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() && number >= least;
}

int run(std::span<char*> arguments) {
  Expected expected;
  const bool given = arguments.size() == 3 && parse(arguments[1], 2, expected.nodes) &&
                     parse(arguments[2], 1, expected.cores_per_node);
  if (arguments.size() != 1 && !given) {
    fmt::print(stderr, "usage: numa_check [NODES CORES_PER_NODE]   (2 2; at least two nodes)\n");
    return 2;
  }
  Report report;
  check_machine(expected, report);
  check_judge(expected, report);
  return report.failed() ? 1 : 0;
}

}  // namespace
}  // namespace sluice::testing

int main(int argc, char** argv) {
  try {
    return sluice::testing::run({argv, static_cast<size_t>(argc)});
  } catch (const std::exception& error) {
    fmt::print("FAILED  {}\n", error.what());
    return 1;
  }
}
