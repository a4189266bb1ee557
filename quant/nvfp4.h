// NVFP4: 64 weights as e2m1 codes in 4 sub-blocks of 16 with an unsigned e4m3 scale each, 4.5 bits a weight.
// value = (e4m3(d[s]) / 2) * kE2m1Doubled[code], exact in float. A tensor's second-level scale is kept
// outside the blocks (quant::WeightView::scale).
//
//   byte 0..3    d[4]    scale of sub-block s. The sign bit is ignored; 0x7F (NaN in e4m3) decodes to 0
//   byte 4..35   qs[32]  sub-block s has qs[8s .. 8s + 7]; low nibble of its byte j: code of its element j,
//                        high nibble: code of its element j + 8
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice::quant {

struct BlockNVFP4 {
  static constexpr int64_t kElements = 64;
  static constexpr int64_t kSubBlocks = 4;

  uint8_t d[kSubBlocks];
  uint8_t qs[kElements / 2];
};
static_assert(sizeof(BlockNVFP4) == 36);

/// The largest magnitude that a block holds: e2m1's 6 times e4m3's 448. A tensor whose largest magnitude is a
/// wants the second-level scale a / kNvfp4Largest: its values divided by it use the whole range of block
/// scales.
inline constexpr float kNvfp4Largest = 6.0F * 448.0F;

/// e4m3(bits) / 2 with the rules for d above.
float nvfp4_half_scale(uint8_t bits);

void dequantize(const BlockNVFP4& block, std::span<float, BlockNVFP4::kElements> values);
/// `values` are already divided by the tensor's second-level scale, if it has one. Values beyond
/// kNvfp4Largest saturate. Without a second-level scale, values below 0.1 or so meet e4m3's subnormals and
/// lose precision.
void quantize(std::span<const float, BlockNVFP4::kElements> values, BlockNVFP4& block);

/// Takes over 64 consecutive columns of a row as ModelOpt stores them: two codes a byte, low nibble the even
/// column, and one e4m3 scale per 16 columns. Codes and scales are kept as they are, but for the scales' sign
/// bit.
void nvfp4_from_modelopt(std::span<const std::byte, BlockNVFP4::kElements / 2> codes,
                         std::span<const std::byte, BlockNVFP4::kSubBlocks> e4m3_scales, BlockNVFP4& block);

}  // namespace sluice::quant
