// Sums and maxima over the threads of a block, in an order that never changes.
#pragma once

#include <cstdint>

namespace sluice::cuda {

template <typename T, typename Combine>
__device__ __forceinline__ T combine_warp(T value, const Combine& combine) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2)
    value = combine(value, __shfl_xor_sync(0xFFFFFFFFU, value, lanes));
  return value;
}

/// The same value in every thread. All threads of the block, whole warps; `scratch` [32] in shared memory,
/// which may be used again after the caller's next barrier.
template <typename T, typename Combine>
__device__ __forceinline__ T combine_block(T value, T neutral, T* scratch, const Combine& combine) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = combine_warp(value, combine);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return combine_warp(lane < warps ? scratch[lane] : neutral, combine);
}

__device__ __forceinline__ float block_sum(float value, float* scratch) {
  return combine_block(value, 0.0F, scratch, [](float a, float b) { return a + b; });
}

}  // namespace sluice::cuda
