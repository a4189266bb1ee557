// The judge of the memory checks, judged: pages that a system call bound to a node, without offload/.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include "quant/base/error.h"
#include "tests/numa/checks.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

// Memory bound to a node by a system call and written.
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

}  // namespace

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

}  // namespace sluice::testing
