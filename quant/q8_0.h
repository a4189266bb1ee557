// Q8_0: 32 weights as signed bytes with one f16 scale, 8.5 bits a weight. value[i] = d * q[i].
//
//   byte 0..1    d      f16
//   byte 2..33   q[32]  int8
#pragma once

#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockQ8_0 {
  static constexpr int64_t kElements = 32;

  uint16_t d;
  int8_t q[kElements];
};
static_assert(sizeof(BlockQ8_0) == 34);

void dequantize(const BlockQ8_0& block, std::span<float, BlockQ8_0::kElements> values);
/// Codes lie in [-127, 127]. Values beyond 127 * 65504 saturate.
void quantize(std::span<const float, BlockQ8_0::kElements> values, BlockQ8_0& block);

}  // namespace sluice::quant
