// The tensor cores' int8 products, as inline functions, and the trick that reads their sums as floats.
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

/// d = start + A B for A [16, 32] and B [32, 8] of int8. Lane (g, t) = (lane / 4, lane % 4) gives rows g (a0,
/// a2) and g + 8 (a1, a3), columns 4t.. (a0, a1) and 16 + 4t.. (a2, a3); of B column g, rows 4t.. (b0) and 16
/// + 4t.. (b1). It gets rows g (d0, d1) and g + 8 (d2, d3), columns 2t and 2t + 1.
__device__ __forceinline__ void mma_int8_k32(const uint32_t (&a)[4], uint2 b, const AccumulatorStart& start,
                                             uint32_t (&d)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(start.bits[0]),
        "r"(start.bits[1]), "r"(start.bits[2]), "r"(start.bits[3]));
}

/// The same for sixteen columns: a0 and a1, b0.
__device__ __forceinline__ void mma_int8_k16(uint32_t a0, uint32_t a1, uint32_t b,
                                             const AccumulatorStart& start, uint32_t (&d)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(start.bits[0]), "r"(start.bits[1]), "r"(start.bits[2]),
        "r"(start.bits[3]));
}

}  // namespace sluice::cuda
