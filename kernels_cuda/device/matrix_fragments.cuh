// What moves between the lanes of a warp on the way to matrix products (ptx.cuh).
#pragma once

#include <cstdint>

namespace sluice::cuda::device {

/// Words (column, lane) of four lanes become (lane, column): lane t gets word t of each, in the order of the
/// lanes.
__device__ __forceinline__ uint4 transpose_words(const uint32_t (&w)[4], int t) {
  const bool is_upper = (t & 2) != 0;
  const bool is_odd = (t & 1) != 0;
  const uint32_t r0 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[0] : w[2], 2);
  const uint32_t r1 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[1] : w[3], 2);
  const uint32_t a0 = is_upper ? r0 : w[0];
  const uint32_t a1 = is_upper ? r1 : w[1];
  const uint32_t b0 = is_upper ? w[2] : r0;
  const uint32_t b1 = is_upper ? w[3] : r1;
  const uint32_t a = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? a0 : a1, 1);
  const uint32_t b = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? b0 : b1, 1);
  return is_odd ? make_uint4(a, a1, b, b1) : make_uint4(a0, a, b0, b);
}

}  // namespace sluice::cuda::device
