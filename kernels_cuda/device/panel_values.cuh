// From the fragments of panel_formats.cuh to the numbers they stand for: the bits of quant::dequantize_row.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/activation_bytes.cuh"
#include "kernels_cuda/device/panel_formats.cuh"

namespace sluice::cuda {

/// Byte b of the two words of a row as a code, b-th of the column quad `quad`.
template <ColumnOrder kOrder>
__device__ __forceinline__ float code_of(uint32_t first, uint32_t second, int quad, int b) {
  uint32_t word = quad == 0 ? first : second;
  int byte = b;
  if constexpr (kOrder != ColumnOrder::kWords) {
    word = b < 2 ? first : second;
    byte = b % 2 * 2 + quad;
  }
  return static_cast<float>(static_cast<int8_t>(word >> 8 * byte));
}

/// The four values of row 2g + `row` from column quad_of(t, quad) of the chunk on.
template <class Format>
__device__ __forceinline__ void quad_values(const uint32_t (&a)[4], const ChunkScales& s, int row, int quad,
                                            float (&values)[4]) {
  float2 factor = s.scale;
  if constexpr (Format::kGroup == ScaleGroup::kEachWord) {
    if (quad == 1) factor = s.second;
  }
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float code = code_of<Format::kOrder>(a[row], a[2 + row], quad, b) * Format::kFactor;
    values[b] = __fmul_rn(row == 0 ? factor.x : factor.y, code);
    if constexpr (Format::kHasMin) values[b] = __fsub_rn(values[b], row == 0 ? s.min.x : s.min.y);
  }
}

}  // namespace sluice::cuda
