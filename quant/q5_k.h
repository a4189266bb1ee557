// Q5_K: Q4_K with a fifth bit per code, 5.5 bits a weight. value = (d * s) * code - dmin * m, both products
// rounded to float first. Read only.
//
//   byte 0..1     d           f16
//   byte 2..3     dmin        f16
//   byte 4..15    scales[12]  k_scales.h
//   byte 16..47   qh[32]      bit b of byte l is the fifth (highest) bit of element l of sub-block b
//   byte 48..175  qs[128]     as in Q4_K
#pragma once

#include <cstdint>
#include <span>

#include "quant/k_scales.h"

namespace sluice::quant {

struct BlockQ5_K {
  static constexpr int64_t kElements = 256;

  uint16_t d;
  uint16_t dmin;
  uint8_t scales[kKScaleBytes];
  uint8_t qh[kElements / kKSubBlocks];
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockQ5_K) == 176);

void dequantize(const BlockQ5_K& block, std::span<float, BlockQ5_K::kElements> values);

}  // namespace sluice::quant
