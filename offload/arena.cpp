#include "offload/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <map>
#include <utility>

#include "offload/machine.h"
#include "offload/read_loop.h"
#include "offload/topology.h"
#include "quant/base/error.h"

namespace sluice::offload {
namespace {

constexpr int64_t kHugePage = 2 << 20;
// What is smaller is read in no time, and a probe would take longer than to fill it.
constexpr int64_t kLeastToProbe = 256 << 20;

std::string gigabytes(int64_t bytes) {
  return fmt::format("{} bytes ({:.1f} GB)", bytes, static_cast<double>(bytes) / 1e9);
}

// Empty, or why pages will come from anywhere.
std::string bind_memory(std::span<std::byte> bytes, const ArenaOptions& options) {
  const Topology topology = load_topology(TopologyDetail::kCpusAndMemory);
  int failed = 0;
  if (options.policy == MemoryPolicy::kInterleave) {
    failed = hwloc_set_area_membind(topology.get(), bytes.data(), bytes.size(),
                                    hwloc_topology_get_topology_nodeset(topology.get()),
                                    HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_BYNODESET);
  } else {
    const hwloc_obj_t node =
        hwloc_get_numanode_obj_by_os_index(topology.get(), static_cast<unsigned>(options.node_os_index));
    if (node == nullptr) {
      return fmt::format("there is no NUMA node {}", options.node_os_index);
    }
    failed = hwloc_set_area_membind(topology.get(), bytes.data(), bytes.size(), node->nodeset,
                                    HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_STRICT);
  }
  return failed == 0 ? std::string() : system_error_text(errno);
}

// Seconds of the faster of two ways to read, tried in turns so that a disturbance meets both.
std::array<double, 2> best_seconds(const Arena& small, const Arena& huge) {
  constexpr int kTurns = 4;
  std::array<double, 2> best{1e9, 1e9};
  for (int turn = 0; turn < kTurns; ++turn) {
    for (const size_t which : {size_t{0}, size_t{1}}) {
      const auto begin = std::chrono::steady_clock::now();
      read_in_pieces((which == 0 ? small : huge).bytes());
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      best[which] = std::min(best[which], seconds.count());
    }
  }
  return best;
}

}  // namespace

void check_memory(int64_t bytes, const std::string& purpose) {
  const int64_t available = available_memory_bytes();
  if (bytes > available) {
    throw Error("memory for " + purpose, gigabytes(bytes) + " available", gigabytes(available));
  }
}

HugePageProbe probe_huge_pages() {
  constexpr int64_t kBytes = 64 << 20;
  const ArenaOptions options{.purpose = "a test of page sizes"};
  ArenaOptions small_options = options;
  small_options.huge_pages = HugePages::kOff;
  ArenaOptions huge_options = options;
  huge_options.huge_pages = HugePages::kOn;
  const Arena small(kBytes, small_options);
  const Arena huge(kBytes, huge_options);
  for (const Arena* arena : {&small, &huge}) {
    std::ranges::fill(arena->bytes(), std::byte{1});
  }
  const auto [small_seconds, huge_seconds] = best_seconds(small, huge);
  // On a tie huge pages win: they are faster to get and their tables take less memory.
  constexpr double kTie = 1.02;
  return {.huge_pays = huge.huge_page_bytes() > 0 && huge_seconds < small_seconds * kTie,
          .small_gb_per_s = static_cast<double>(kBytes) / small_seconds / 1e9,
          .huge_gb_per_s = static_cast<double>(kBytes) / huge_seconds / 1e9};
}

Arena::Arena(int64_t bytes, const ArenaOptions& options) : size_(bytes) {
  assert(bytes >= 0);
  huge_pages_ =
      options.huge_pages == HugePages::kOn ||
      (options.huge_pages == HugePages::kProbe && bytes >= kLeastToProbe && probe_huge_pages().huge_pays);
  check_memory(bytes, options.purpose);
  mapping_bytes_ = static_cast<size_t>(bytes + kHugePage);
  mapping_ = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    throw Error("memory for " + options.purpose, gigabytes(bytes), system_error_text(errno));
  }
  const auto address = reinterpret_cast<uintptr_t>(mapping_);
  const uintptr_t past = address % kHugePage;
  data_ = static_cast<std::byte*>(mapping_) + (past == 0 ? 0 : kHugePage - past);
  // A kernel without transparent huge pages refuses both; then pages are small, as huge_page_bytes() shows.
  madvise(data_, static_cast<size_t>(size_), huge_pages_ ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (options.policy != MemoryPolicy::kAnywhere && bytes > 0) {
    not_bound_ = bind_memory(this->bytes(), options);
  }
}

Arena::~Arena() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapping_bytes_);
  }
}

Arena::Arena(Arena&& other) noexcept
    : data_(other.data_),
      size_(std::exchange(other.size_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(other.mapping_bytes_),
      used_(other.used_),
      huge_pages_(other.huge_pages_),
      not_bound_(std::move(other.not_bound_)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  Arena moved(std::move(other));
  std::swap(data_, moved.data_);
  std::swap(size_, moved.size_);
  std::swap(mapping_, moved.mapping_);
  std::swap(mapping_bytes_, moved.mapping_bytes_);
  std::swap(used_, moved.used_);
  std::swap(huge_pages_, moved.huge_pages_);
  std::swap(not_bound_, moved.not_bound_);
  return *this;
}

std::span<std::byte> Arena::allocate(int64_t bytes, int64_t alignment) {
  assert(bytes >= 0 && alignment > 0 && kHugePage % alignment == 0);
  const int64_t begin = (used_ + alignment - 1) / alignment * alignment;
  assert(begin + bytes <= size_);
  used_ = begin + bytes;
  return this->bytes().subspan(static_cast<size_t>(begin), static_cast<size_t>(bytes));
}

std::vector<NodePages> Arena::pages_per_node() const {
  constexpr int64_t kPagesPerCall = 4096;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t pages = (size_ + page - 1) / page;
  std::map<int32_t, int64_t> counts;
  std::vector<void*> addresses(kPagesPerCall);
  std::vector<int> nodes(kPagesPerCall);
  for (int64_t first = 0; first < pages; first += kPagesPerCall) {
    const int64_t n = std::min(kPagesPerCall, pages - first);
    for (int64_t i = 0; i < n; ++i) {
      addresses[static_cast<size_t>(i)] = data_ + (first + i) * page;
    }
    // Without target nodes the call moves nothing: it reports where each page is.
    if (syscall(SYS_move_pages, 0, static_cast<unsigned long>(n), addresses.data(), nullptr, nodes.data(),
                0) != 0) {
      throw Error("pages of an arena", "the system to say where they are", system_error_text(errno));
    }
    for (int64_t i = 0; i < n; ++i) {
      if (nodes[static_cast<size_t>(i)] >= 0) {  // an error number means that there is no page yet
        ++counts[nodes[static_cast<size_t>(i)]];
      }
    }
  }
  std::vector<NodePages> result;
  result.reserve(counts.size());
  for (const auto& [node, count] : counts) {
    result.push_back({.node_os_index = node, .pages = count});
  }
  return result;
}

int64_t Arena::huge_page_bytes() const {
  std::ifstream smaps("/proc/self/smaps");
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t end = begin + static_cast<uintptr_t>(size_);
  bool inside = false;
  int64_t total = 0;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t first = 0;
    uintptr_t last = 0;
    int64_t kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &first, &last) == 2) {
      inside = first < end && last > begin;
    } else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %" SCNd64, &kib) == 1) {
      total += kib * 1024;
    }
  }
  return total;
}

}  // namespace sluice::offload
