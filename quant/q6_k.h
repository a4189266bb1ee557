// Q6_K: 256 weights in 16 sub-blocks of 16, 6.5625 bits a weight. value = (d * scale) * (code - 32), the
// first product rounded to float.
//
//   byte 0..127    ql[128]     low four bits of the codes
//   byte 128..191  qh[64]      high two bits of the codes
//   byte 192..207  scales[16]  int8, one per 16 elements
//   byte 208..209  d           f16
//
// Half h of 128 elements reads ql[64h..], qh[32h..], scales[8h..]. In it, element 32g + l (g = 0..3, l =
// 0..31) has its low bits in ql[l + 32 * (g % 2)], low nibble for g < 2 and high nibble else, and its high
// bits in qh[l] >> 2g.
#pragma once

#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockQ6_K {
  static constexpr int64_t kElements = 256;
  static constexpr int64_t kSubBlocks = 16;

  uint8_t ql[kElements / 2];
  uint8_t qh[kElements / 4];
  int8_t scales[kSubBlocks];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

void dequantize(const BlockQ6_K& block, std::span<float, BlockQ6_K::kElements> values);
void quantize(std::span<const float, BlockQ6_K::kElements> values, BlockQ6_K& block);

}  // namespace sluice::quant
