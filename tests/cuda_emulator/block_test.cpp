#include "tests/cuda_emulator/block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "kernels_cuda/device/ptx.cuh"
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/run_block.h"

namespace sluice::emulator {
namespace {

constexpr int kTimes = 50;  // in which every random choice is made at least once

TEST(Block, EveryThreadRunsOnceInItsPlace) {
  std::map<std::tuple<unsigned, unsigned, unsigned, unsigned, unsigned, unsigned>, int> times;
  const Grid grid{.grid = dim3(3, 2, 2), .block = dim3(5, 4, 3), .name = "tested"};
  run_grid(grid, [&] {
    EXPECT_EQ(gridDim.x * 100 + gridDim.y * 10 + gridDim.z, 322U);
    EXPECT_EQ(blockDim.x * 100 + blockDim.y * 10 + blockDim.z, 543U);
    __syncthreads();
    ++times[{blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z}];
  });
  ASSERT_EQ(times.size(), 3U * 2 * 2 * 5 * 4 * 3);
  for (const auto& [place, count] : times) EXPECT_EQ(count, 1);
  EXPECT_TRUE(times.contains({2, 1, 1, 4, 3, 2}));
}

TEST(Block, LanesOfAWarpAreNeighboursInX) {
  run_block(96, [] { EXPECT_EQ(lane(), static_cast<int>(threadIdx.x % 32)); });
}

TEST(Block, ABarrierWaitsForAllThreads) {
  for (int time = 0; time < kTimes; ++time) {
    std::vector<int> values(257);
    run_block(257, [&] {
      for (int round = 1; round < 5; ++round) {
        values[threadIdx.x] = round;
        __syncthreads();
        EXPECT_TRUE(std::ranges::all_of(values, [&](int v) { return v == round; }));
        __syncthreads();
      }
    });
  }
}

TEST(Block, ABarrierDoesNotWaitForThreadsThatReturned) {
  int after = 0;
  run_block(100, [&] {
    if (threadIdx.x % 3 == 0) return;
    __syncthreads();
    if (threadIdx.x % 3 == 1) return;
    __syncthreads();
    ++after;
  });
  EXPECT_EQ(after, 33);
}

TEST(Block, ABarrierTellsWhetherAnyThreadBroughtTrue) {
  run_block(128, [] {
    for (unsigned round = 0; round < 8; ++round) {
      const bool mine = round % 2 != 0 && threadIdx.x == 13 * round;
      EXPECT_EQ(__syncthreads_or(mine), round % 2 != 0 ? 1 : 0);
    }
  });
}

TEST(Block, BarriersOfSomeThreads) {
  for (int time = 0; time < kTimes; ++time) {
    int first[64] = {};
    int second[64] = {};
    run_block(128, [&] {
      int(&half)[64] = threadIdx.x < 64 ? first : second;
      const int id = threadIdx.x < 64 ? 1 : 2;
      const int rounds = threadIdx.x < 64 ? 2 : 5;  // halves do not wait for each other
      for (int round = 1; round <= rounds; ++round) {
        half[threadIdx.x % 64] = round;
        cuda::ptx::sync_threads(id, 64);
        EXPECT_TRUE(std::ranges::all_of(half, [&](int v) { return v == round; }));
        cuda::ptx::sync_threads(id, 64);
      }
    });
  }
}

/// Whether something that `run` returns is true some and false other times.
template <typename Run>
void expect_both(Run run) {
  std::set<bool> seen;
  for (int time = 0; time < kTimes; ++time) seen.insert(run());
  EXPECT_EQ(seen.size(), 2U);
}

TEST(Block, AMissingBarrierShows) {
  expect_both([] {
    int of_other_warp = 0;
    int seen = 0;
    run_block(64, [&] {
      if (threadIdx.x == 0) of_other_warp = 1;
      if (threadIdx.x == 32) seen = of_other_warp;
    });
    return seen == 1;
  });
}

TEST(Block, AMissingWarpBarrierShows) {
  expect_both([] {
    int of_other_lane = 0;
    int seen = 0;
    run_block(32, [&] {
      if (threadIdx.x == 5) of_other_lane = 1;
      if (threadIdx.x == 6) seen = of_other_lane;
    });
    return seen == 1;
  });
}

TEST(Block, WarpsAreInterruptedBetweenCollectives) {
  expect_both([] {
    int steps = 0;
    int seen = 0;
    run_block(64, [&] {
      for (int i = 0; i < 1000; ++i) {
        __syncwarp();
        if (threadIdx.x == 0) ++steps;
      }
      if (threadIdx.x == 32) seen = steps;
    });
    return seen > 0 && seen < 1000;
  });
}

TEST(Block, BlocksRunInEitherOrder) {
  expect_both([] {
    unsigned last = 0;
    run_grid({.grid = dim3(10), .block = dim3(1), .name = "tested"}, [&] { last = blockIdx.x; });
    EXPECT_TRUE(last == 0 || last == 9);
    return last == 0;
  });
}

TEST(Block, DynamicSharedMemoryIsFilledAndAligned) {
  const Grid grid{.grid = dim3(3), .block = dim3(32), .shared_bytes = 1000, .name = "tested"};
  run_grid(grid, [] {
    auto* bytes = dynamic_shared<unsigned char>();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % 256, 128U);  // no more than was promised
    if (threadIdx.x == 0) {
      EXPECT_TRUE(std::all_of(bytes, bytes + 1000, [](unsigned char b) { return b == 0xFF; }));
      std::fill_n(bytes, 1000, static_cast<unsigned char>(0));
    }
  });
}

TEST(BlockDeathTest, ThreadsThatWaitForEachOther) {
  const auto kernel = [] {
    if (threadIdx.x < 32) cuda::ptx::sync_threads(1, 64);
    if (threadIdx.x >= 32) __syncthreads();
  };
  EXPECT_DEATH(run_block(64, kernel),
               "kernel tested, block \\(0, 0, 0\\): no thread can go on; from thread 0 on: barrier; from "
               "thread 32 on: __syncthreads");
}

TEST(BlockDeathTest, BarriersOfOtherNumbersOfThreads) {
  EXPECT_DEATH(run_block(128, [] { cuda::ptx::sync_threads(1, threadIdx.x < 64 ? 128 : 96); }),
               "kernel tested.*thread.*barrier 1 for .* threads, but others wait there for ");
  EXPECT_DEATH(run_block(128, [] { cuda::ptx::sync_threads(1, 33); }), "a multiple of 32");
  EXPECT_DEATH(run_block(128, [] { cuda::ptx::sync_threads(16, 128); }), "expected 1 to 15");
}

TEST(BlockDeathTest, WritesBesideDynamicSharedMemory) {
  EXPECT_DEATH(run_block(
                   32, [] { dynamic_shared<char>()[100] = 0; }, 100),
               "wrote behind the 100 bytes of dynamic shared memory");
  EXPECT_DEATH(run_block(
                   32, [] { dynamic_shared<char>()[-1] = 0; }, 100),
               "wrote before the dynamic shared memory");
}

}  // namespace
}  // namespace sluice::emulator
