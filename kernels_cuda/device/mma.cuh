// The trick that reads the int32 sums of the tensor cores (ptx.cuh) as floats.
#pragma once

#include <cstdint>

namespace sluice::cuda {

/// Bits of the float 1.5 * 2^23: a sum of magnitude below 2^22 that starts here reads as that float plus the
/// sum.
inline constexpr uint32_t kFloatBias = 0x4B400000U;

/// The float that an accumulator started at kFloatBias stands for.
__device__ __forceinline__ float unbiased(uint32_t sum) {
  return __uint_as_float(sum) - 12582912.0F;
}

/// What accumulators start at, in registers of their own: a kernel argument that is zero is added, because
/// constants that the compiler knows are moved into place before every product.
struct AccumulatorStart {
  uint32_t bits[4];

  __device__ explicit AccumulatorStart(const uint32_t (&zeros)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) bits[i] = kFloatBias + zeros[i];
  }
};

}  // namespace sluice::cuda
