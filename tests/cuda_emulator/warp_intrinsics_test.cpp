#include "tests/cuda_emulator/warp_intrinsics.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/run_block.h"

namespace sluice::emulator {
namespace {

TEST(WarpIntrinsics, Shuffles) {
  run_block(64, [] {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int value = 100 * warp + lane;
    EXPECT_EQ(__shfl_sync(kAllLanes, value, 31 - lane), 100 * warp + 31 - lane);
    EXPECT_EQ(__shfl_up_sync(kAllLanes, value, 3), lane < 3 ? value : value - 3);
    EXPECT_EQ(__shfl_down_sync(kAllLanes, value, 3), lane > 28 ? value : value + 3);
    EXPECT_EQ(__shfl_xor_sync(kAllLanes, value, 5), 100 * warp + (lane ^ 5));
    EXPECT_EQ(__shfl_xor_sync(kAllLanes, static_cast<float>(lane), 16), static_cast<float>(lane ^ 16));
    const uint64_t wide = (uint64_t{7} << 40) + static_cast<uint64_t>(lane);
    EXPECT_EQ(__shfl_sync(kAllLanes, wide, 9), (uint64_t{7} << 40) + 9);
    EXPECT_EQ(__shfl_sync(kAllLanes, 0.5 * lane, 8), 4.0);
  });
}

TEST(WarpIntrinsics, ShufflesOfSegments) {
  run_block(32, [] {
    const int lane = static_cast<int>(threadIdx.x);
    const int first = lane / 8 * 8;
    EXPECT_EQ(__shfl_sync(kAllLanes, lane, 11, 8), first + 3);  // modulo the segment
    EXPECT_EQ(__shfl_up_sync(kAllLanes, lane, 2, 8), lane - first < 2 ? lane : lane - 2);
    EXPECT_EQ(__shfl_down_sync(kAllLanes, lane, 2, 8), lane - first > 5 ? lane : lane + 2);
    EXPECT_EQ(__shfl_xor_sync(kAllLanes, lane, 8, 8), lane % 16 < 8 ? lane : lane - 8);
  });
}

TEST(WarpIntrinsics, Votes) {
  run_block(32, [] {
    EXPECT_EQ(__ballot_sync(kAllLanes, threadIdx.x % 3 == 0), 0x49249249U);
    EXPECT_EQ(__any_sync(kAllLanes, threadIdx.x == 17), 1);
    EXPECT_EQ(__any_sync(kAllLanes, 0), 0);
    EXPECT_EQ(__all_sync(kAllLanes, 2), 1);
    EXPECT_EQ(__all_sync(kAllLanes, threadIdx.x != 17), 0);
  });
}

TEST(WarpIntrinsics, Reductions) {
  run_block(32, [] {
    const int value = static_cast<int>(threadIdx.x) - 20;
    EXPECT_EQ(__reduce_add_sync(kAllLanes, value), 31 * 16 - 20 * 32);
    EXPECT_EQ(__reduce_min_sync(kAllLanes, value), -20);
    EXPECT_EQ(__reduce_max_sync(kAllLanes, value), 11);
    EXPECT_EQ(__reduce_max_sync(kAllLanes, static_cast<uint32_t>(value)), UINT32_MAX);
    EXPECT_EQ(__reduce_add_sync(kAllLanes, 0x80000001U), 32U);  // wraps
  });
}

TEST(WarpIntrinsics, GroupsOfLanesMeetApart) {
  run_block(32, [] {
    const bool is_even = threadIdx.x % 2 == 0;
    const uint32_t mine = is_even ? 0x55555555U : 0xAAAAAAAAU;
    for (int i = 0; i < (is_even ? 10 : 3); ++i) {
      EXPECT_EQ(__ballot_sync(mine, 1), mine);
      EXPECT_EQ(__reduce_add_sync(mine, 1), 16);
      __syncwarp(mine);
    }
  });
}

TEST(WarpIntrinsics, LanesSeeWhatWasWrittenBeforeSyncwarp) {
  std::array<unsigned, 32> values{};
  run_block(32, [&] {
    for (unsigned round = 0; round < 20; ++round) {
      values[threadIdx.x] = round * 100 + threadIdx.x;
      __syncwarp();
      EXPECT_EQ(values[31 - threadIdx.x], round * 100 + 31 - threadIdx.x);
      __syncwarp();
    }
  });
}

TEST(WarpIntrinsicsDeathTest, OtherCalls) {
  const auto kernel = [] {
    if (threadIdx.x == 7) {
      __syncwarp();
    } else {
      __ballot_sync(kAllLanes, 1);
    }
  };
  EXPECT_DEATH(
      run_block(32, kernel),
      "kernel tested, block \\(0, 0, 0\\), thread .*(__syncwarp .* waits in __ballot_sync|__ballot_sync .* "
      "waits in __syncwarp)");
}

TEST(WarpIntrinsicsDeathTest, OtherMasks) {
  EXPECT_DEATH(
      run_block(32, [] { __syncwarp(threadIdx.x < 16 ? kAllLanes : 0xFFFF0000U); }),
      "from thread 0 on: __syncwarp; from thread 16 on: .returned|__syncwarp with mask ffffffff, but of the "
      "warp only lanes");
  EXPECT_DEATH(run_block(32, [] { __syncwarp(threadIdx.x < 16 ? kAllLanes : 0xFFFFFFFEU); }),
               "__syncwarp with mask .* waits in __syncwarp with mask ");
}

TEST(WarpIntrinsicsDeathTest, MasksWithoutTheirOwnLane) {
  EXPECT_DEATH(run_block(32, [] { __syncwarp(0x0000FFFFU); }), "mask 0000ffff, which is not of this lane");
}

TEST(WarpIntrinsicsDeathTest, LanesThatReturned) {
  EXPECT_DEATH(run_block(32,
                         [] {
                           if (threadIdx.x == 3) return;
                           __syncwarp();
                         }),
               "only lanes fffffff7 have not returned|no thread can go on");
  EXPECT_DEATH(run_block(16, [] { __syncwarp(); }), "only lanes 0000ffff");
}

TEST(WarpIntrinsicsDeathTest, ShufflesFromLanesOutsideTheMask) {
  EXPECT_DEATH(run_block(32,
                         [] {
                           if (threadIdx.x < 16) __shfl_sync(0x0000FFFFU, 1, 16);
                         }),
               "asks for lane 16, which is not of the mask");
}

}  // namespace
}  // namespace sluice::emulator
