// Q4_0: 32 weights as 4-bit codes with one f16 scale, 4.5 bits a weight. value = d * (code - 8). Read only.
//
//   byte 0..1    d       f16
//   byte 2..17   qs[16]  low nibble of qs[j]: code of element j; high nibble: code of element j + 16
#pragma once

#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockQ4_0 {
  static constexpr int64_t kElements = 32;

  uint16_t d;
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockQ4_0) == 18);

void dequantize(const BlockQ4_0& block, std::span<float, BlockQ4_0::kElements> values);

}  // namespace sluice::quant
