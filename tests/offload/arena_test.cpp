// Memory that is where it should be, and refused when there is none.
#include "offload/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "offload/machine.h"
#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

constexpr ArenaOptions kPlain{.huge_pages = HugePages::kOff};

TEST(Arena, PiecesAreAlignedDisjointAndWritable) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  Arena arena(4 << 20, kPlain);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.bytes().data()) % (2 << 20), 0);
  const std::byte* end = arena.bytes().data();
  for (int i = 0; i < 40; ++i) {
    const int64_t alignment = int64_t{1} << random.integer(0, 12);
    const auto piece = arena.allocate(random.integer(0, 60000), alignment);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.data()) % static_cast<uintptr_t>(alignment), 0);
    EXPECT_GE(piece.data(), end);
    std::ranges::fill(piece, std::byte{42});
    end = piece.data() + piece.size();
  }
  EXPECT_LE(end, arena.bytes().data() + arena.bytes().size());
}

TEST(Arena, MovingMovesTheMemory) {
  Arena first(100, kPlain);
  const auto piece = first.allocate(100);
  std::ranges::fill(piece, std::byte{7});
  Arena second(std::move(first));
  Arena third(10, kPlain);
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), piece.data());
  EXPECT_EQ(third.bytes()[99], std::byte{7});
}

TEST(Arena, EmptyOne) {
  Arena arena(0, ArenaOptions{});
  EXPECT_TRUE(arena.allocate(0).empty());
  EXPECT_TRUE(arena.pages_per_node().empty());
}

TEST(Arena, PagesAreCountedOnceWritten) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  Arena arena(100 * page, kPlain);
  EXPECT_TRUE(arena.pages_per_node().empty());
  for (int64_t i = 0; i < 30; ++i) arena.bytes()[static_cast<size_t>(i * page)] = std::byte{1};
  int64_t pages = 0;
  for (const NodePages& node : arena.pages_per_node()) pages += node.pages;
  EXPECT_EQ(pages, 30);
}

TEST(Arena, BoundPagesAreOnTheirNode) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  for (const NumaNode& node : probe_machine().nodes) {
    Arena arena(
        5000 * page,
        {.policy = MemoryPolicy::kNode, .node_os_index = node.os_index, .huge_pages = HugePages::kOff});
    if (!arena.not_bound().empty()) GTEST_SKIP() << "the system does not bind memory: " << arena.not_bound();
    std::ranges::fill(arena.bytes(), std::byte{1});
    const auto pages = arena.pages_per_node();
    ASSERT_EQ(pages.size(), 1);
    EXPECT_EQ(pages[0].node_os_index, node.os_index);
    EXPECT_EQ(pages[0].pages, 5000);
  }
}

TEST(Arena, InterleavedPagesAreSpread) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const auto nodes = static_cast<int64_t>(probe_machine().nodes.size());
  Arena arena(1200 * page, {.policy = MemoryPolicy::kInterleave, .huge_pages = HugePages::kOff});
  if (!arena.not_bound().empty()) GTEST_SKIP() << "the system does not bind memory: " << arena.not_bound();
  std::ranges::fill(arena.bytes(), std::byte{1});
  for (const NodePages& node : arena.pages_per_node()) EXPECT_LE(std::abs(node.pages - 1200 / nodes), 1);
}

TEST(Arena, ANodeThatIsNotThereIsAFactNotAnEnd) {
  Arena arena(4096, {.policy = MemoryPolicy::kNode, .node_os_index = 999, .huge_pages = HugePages::kOff});
  EXPECT_EQ(arena.not_bound(), "there is no NUMA node 999");
  arena.bytes()[0] = std::byte{1};
}

TEST(Arena, MoreThanThereIsIsRefusedWithBothNumbers) {
  const int64_t bytes = available_memory_bytes() + (int64_t{64} << 30);
  const std::string text =
      testing::error_text([&] { return Arena(bytes, {.purpose = "a test", .huge_pages = HugePages::kOff}); });
  EXPECT_EQ(text.find("memory for a test: expected " + std::to_string(bytes) + " bytes ("), 0) << text;
  EXPECT_NE(text.find("available, found "), std::string::npos) << text;
}

TEST(Arena, HugePagesOnAndOffAreWhatTheKernelGives) {
  Arena small(8 << 20, kPlain);
  std::ranges::fill(small.bytes(), std::byte{1});
  EXPECT_FALSE(small.huge_pages());
  EXPECT_EQ(small.huge_page_bytes(), 0);
  Arena huge(8 << 20, {.huge_pages = HugePages::kOn});
  std::ranges::fill(huge.bytes(), std::byte{1});
  EXPECT_TRUE(huge.huge_pages());
  EXPECT_LE(huge.huge_page_bytes(), 8 << 20);  // all of it, if the kernel has the feature and free pages
}

TEST(Arena, ProbeDecidesByWhatItMeasured) {
  const HugePageProbe probe = probe_huge_pages();
  EXPECT_GT(probe.small_gb_per_s, 0);
  EXPECT_GT(probe.huge_gb_per_s, 0);
  EXPECT_TRUE(!probe.huge_pays || probe.huge_gb_per_s > 0.95 * probe.small_gb_per_s);
}

}  // namespace
}  // namespace sluice::offload
