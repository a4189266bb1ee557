#include "kernels_cuda/base/launch.cuh"

#include <gtest/gtest.h>

#include "kernels_cuda/device/shared_memory.cuh"
#include "quant/base/error.h"
#include "tests/cuda_emulator/device_code.h"

namespace sluice::emulator {
namespace {

struct Many {
  int values[40];
};

__global__ void add_kernel(Many many, int factor, int* sums) {
  atomicAdd(sums + blockIdx.x, factor * many.values[threadIdx.x]);
}

TEST(Launch, PassesArgumentsByValue) {
  int sums[2] = {};
  {
    Many many{};
    for (int i = 0; i < 40; ++i) many.values[i] = i;
    cuda::launch_kernel(add_kernel, "add", {.grid = dim3(2), .block = dim3(40)}, many, int16_t{3}, &sums[0]);
    cuda::launch_overlapping(add_kernel, "add", {.grid = dim3(1), .block = dim3(2)}, many, 5, &sums[0]);
    many = {};
  }
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  EXPECT_EQ(sums[0], 3 * 780 + 5);
  EXPECT_EQ(sums[1], 3 * 780);
}

__global__ void shared_kernel(char* last, int bytes) {
  SLUICE_DYNAMIC_SHARED(char, memory);
  *last = memory[bytes - 1];
}

TEST(Launch, RefusesMoreSharedMemoryThanWasAllowed) {
  char last = 0;
  const auto launch = [&](int bytes) {
    cuda::launch_kernel(shared_kernel, "shared", {.grid = dim3(1), .block = dim3(1), .shared_bytes = bytes},
                        &last, bytes);
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  };
  launch(48 << 10);
  EXPECT_EQ(last, '\xFF');
  EXPECT_THROW(launch(60000), Error);
  cuda::allow_shared<60000>(shared_kernel, "shared");
  launch(60000);
  EXPECT_THROW(launch(60001), Error);
}

TEST(Launch, RefusesShapesBeyondTheLimits) {
  const auto launch = [](dim3 grid, dim3 block) {
    cuda::launch_kernel(add_kernel, "add", {.grid = grid, .block = block}, Many{}, 0, nullptr);
  };
  EXPECT_THROW(launch(dim3(0), dim3(32)), Error);
  EXPECT_THROW(launch(dim3(1, 65536), dim3(32)), Error);
  EXPECT_THROW(launch(dim3(1), dim3(0)), Error);
  EXPECT_THROW(launch(dim3(1), dim3(1025)), Error);
  EXPECT_THROW(launch(dim3(1), dim3(1, 1, 65)), Error);
}

}  // namespace
}  // namespace sluice::emulator
