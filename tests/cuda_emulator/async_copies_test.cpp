#include "tests/cuda_emulator/async_copies.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <set>

#include "kernels_cuda/device/ptx.cuh"
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/run_block.h"

namespace sluice::emulator {
namespace {

namespace ptx = cuda::ptx;

struct alignas(16) Sixteen {
  std::array<uint32_t, 4> words;
  bool operator==(const Sixteen&) const = default;
};
constexpr Sixteen kFilled{{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}};  // as the block began

TEST(AsyncCopies, AreThereWhenTheirGroupWasAwaited) {
  const std::array<Sixteen, 3> from{{{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{9, 10, 11, 12}}}};
  for (int time = 0; time < 20; ++time) {
    const auto kernel = [&] {
      auto* to = dynamic_shared<Sixteen>();
      ptx::copy_16_async(ptx::shared_address(to), &from[0], ptx::Fill::kCopy);
      ptx::end_copy_group();
      ptx::copy_16_async(ptx::shared_address(to + 1), &from[1], ptx::Fill::kZero);
      ptx::copy_16_async(ptx::shared_address(to + 2), &from[2], ptx::Fill::kCopy);
      ptx::end_copy_group();
      ptx::wait_for_copies<1>();
      EXPECT_EQ(to[0], from[0]);
      ptx::end_copy_group();  // an empty group
      ptx::wait_for_copies<1>();
      EXPECT_EQ(to[1], (Sixteen{}));
      EXPECT_EQ(to[2], from[2]);
    };
    run_block(1, kernel, 3 * sizeof(Sixteen));
  }
}

TEST(AsyncCopies, HappenAtOnceOrAsLateAsTheyMay) {
  std::set<bool> is_late;
  for (int time = 0; time < 50; ++time) {
    Sixteen from{{1, 2, 3, 4}};
    Sixteen arrived{};
    const auto kernel = [&] {
      auto* to = dynamic_shared<Sixteen>();
      ptx::copy_16_async(ptx::shared_address(to), &from, ptx::Fill::kCopy);
      ptx::end_copy_group();
      ptx::wait_for_copies<1>();
      is_late.insert(*to == kFilled);
      from.words[0] = 5;
      ptx::wait_for_copies<0>();
      arrived = *to;
    };
    run_block(1, kernel, sizeof(Sixteen));
    EXPECT_TRUE(arrived.words[0] == 1 || arrived.words[0] == 5);
  }
  EXPECT_EQ(is_late.size(), 2U);
}

TEST(AsyncCopies, AreEachThreadsOwn) {
  std::array<Sixteen, 64> from{};
  for (size_t i = 0; i < from.size(); ++i) from[i].words.fill(static_cast<uint32_t>(i));
  const auto kernel = [&] {
    auto* to = dynamic_shared<Sixteen>();
    ptx::copy_16_async(ptx::shared_address(to + threadIdx.x), &from[threadIdx.x], ptx::Fill::kCopy);
    ptx::end_copy_group();
    ptx::wait_for_copies<0>();
    __syncthreads();
    EXPECT_EQ(to[63 - threadIdx.x], from[63 - threadIdx.x]);
  };
  for (int time = 0; time < 20; ++time) run_block(64, kernel, sizeof from);
}

/// Of one block with 64 bytes of dynamic shared memory, in which one thread starts a copy.
void copy_to(int64_t offset, const void* from) {
  const auto kernel = [&] {
    const uint32_t start = ptx::shared_address(dynamic_shared<char>());
    ptx::copy_16_async(start + static_cast<uint32_t>(offset), from, ptx::Fill::kCopy);
    ptx::end_copy_group();
    ptx::wait_for_copies<0>();
  };
  run_block(1, kernel, 64);
}

TEST(AsyncCopiesDeathTest, Misplaced) {
  static const std::array<Sixteen, 2> from{};
  copy_to(48, from.data());
  EXPECT_DEATH(copy_to(64, from.data()), "cp.async at byte 64 of 64 bytes of dynamic shared memory");
  EXPECT_DEATH(copy_to(-16, from.data()), "cp.async at byte -16 of 64");
  EXPECT_DEATH(copy_to(8, from.data()), "cp.async at byte 8 of 64 .* expected 16 aligned bytes");
  EXPECT_DEATH(copy_to(0, &from[0].words[1]), "cp.async of 16 bytes at a misaligned address");
}

TEST(AsyncCopiesDeathTest, NotAwaited) {
  static const Sixteen from{};
  const auto kernel = [] {
    ptx::copy_16_async(ptx::shared_address(dynamic_shared<char>()), &from, ptx::Fill::kCopy);
    ptx::end_copy_group();
    ptx::wait_for_copies<1>();
  };
  EXPECT_DEATH(run_block(1, kernel, 64),
               "thread \\(0, 0, 0\\): it ends and has not waited for 1 asynchronous copies");
}

TEST(AsyncCopiesDeathTest, AddressesOfOtherMemory) {
  EXPECT_DEATH(run_block(1,
                         [] {
                           static int elsewhere;
                           ptx::shared_address(&elsewhere);
                         }),
               "not in the dynamic shared memory");
}

}  // namespace
}  // namespace sluice::emulator
