// The arithmetic of rope and Hadamard, without contraction: two roundings where the CPU has two.
#pragma once

#include "kernels_cuda/rope.h"

namespace sluice::cuda {

/// Rotates pair `pair` of a vector of `dims` values.
__device__ __forceinline__ void rotate_pair(float* x, const float* cos_sin, int pair, int dims,
                                            RopeLayout layout) {
  const int first = layout == RopeLayout::kInterleaved ? 2 * pair : pair;
  const int second = layout == RopeLayout::kInterleaved ? 2 * pair + 1 : pair + dims / 2;
  const float c = cos_sin[pair];
  const float s = cos_sin[dims / 2 + pair];
  const float a = x[first];
  const float b = x[second];
  x[first] = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
  x[second] = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
}

/// x <- H x / sqrt(n) in shared memory, by the threads [0, n / 2) of a block of which all must call.
__device__ __forceinline__ void hadamard_in_block(float* x, int n) {
  const int i = static_cast<int>(threadIdx.x);
  for (int half = 1; half < n; half *= 2) {
    __syncthreads();
    if (i < n / 2) {
      const int at = i / half * 2 * half + i % half;
      const float a = x[at];
      const float b = x[at + half];
      x[at] = a + b;
      x[at + half] = a - b;
    }
  }
  __syncthreads();
  const float factor = 1.0F / sqrtf(static_cast<float>(n));
  for (int at = i; at < n; at += static_cast<int>(blockDim.x)) x[at] *= factor;
  __syncthreads();
}

}  // namespace sluice::cuda
