// Q5_0: 32 weights as 5-bit codes with one f16 scale, 5.5 bits a weight. value = d * (code - 16). Read only.
//
//   byte 0..1    d       f16
//   byte 2..5    qh      little endian: bit i is the fifth (highest) bit of element i's code
//   byte 6..21   qs[16]  low nibble of qs[j]: low bits of element j; high nibble: of element j + 16
#pragma once

#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockQ5_0 {
  static constexpr int64_t kElements = 32;

  uint16_t d;
  uint8_t qh[4];  // bytes, because the field is not aligned as a uint32_t
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockQ5_0) == 22);

void dequantize(const BlockQ5_0& block, std::span<float, BlockQ5_0::kElements> values);

}  // namespace sluice::quant
