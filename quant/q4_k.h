// Q4_K: 256 weights in 8 sub-blocks of 32, 4.5 bits a weight. With the 6-bit scale s and minimum m of a
// sub-block: value = (d * s) * code - dmin * m, both products rounded to float first.
//
//   byte 0..1     d           f16
//   byte 2..3     dmin        f16
//   byte 4..15    scales[12]  k_scales.h
//   byte 16..143  qs[128]     32 bytes for each pair of sub-blocks (2k, 2k+1): low nibble of byte l is the
//   code of
//                             element l of sub-block 2k, high nibble that of element l of sub-block 2k+1
#pragma once

#include <cstdint>
#include <span>

#include "quant/k_scales.h"

namespace sluice::quant {

struct BlockQ4_K {
  static constexpr int64_t kElements = 256;

  uint16_t d;
  uint16_t dmin;
  uint8_t scales[kKScaleBytes];
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockQ4_K) == 144);

void dequantize(const BlockQ4_K& block, std::span<float, BlockQ4_K::kElements> values);
void quantize(std::span<const float, BlockQ4_K::kElements> values, BlockQ4_K& block);

}  // namespace sluice::quant
