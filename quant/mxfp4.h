// MXFP4: 32 weights as e2m1 codes with one power-of-two scale, 4.25 bits a weight.
// value = 2^(e - 128) * kE2m1Doubled[code]; the doubled table makes up for the halved e8m0 scale.
//
//   byte 0       e       e8m0; 255 (NaN in the OCP format) decodes by the same formula
//   byte 1..16   qs[16]  low nibble of qs[j]: code of element j; high nibble: code of element j + 16
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockMXFP4 {
  static constexpr int64_t kElements = 32;

  uint8_t e;
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockMXFP4) == 17);

/// 2^(e - 128); a subnormal float for e < 2.
constexpr float mxfp4_scale(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000U << e : static_cast<uint32_t>(e - 1) << 23);
}

void dequantize(const BlockMXFP4& block, std::span<float, BlockMXFP4::kElements> values);
/// Never stores e > 252, so every encoded block decodes to finite values; larger ones saturate.
void quantize(std::span<const float, BlockMXFP4::kElements> values, BlockMXFP4& block);

}  // namespace sluice::quant
