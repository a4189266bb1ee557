// Q5_K decoding.
#include "quant/q5_k.h"

#include "quant/base/number.h"

namespace sluice::quant {

void dequantize(const BlockQ5_K& block, std::span<float, BlockQ5_K::kElements> values) {
  constexpr size_t kSubBlock = BlockQ5_K::kElements / kKSubBlocks;
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (size_t b = 0; b < kKSubBlocks; ++b) {
    const ScaleMin packed = unpack_scale_min(block.scales, b);
    const float scale = d * static_cast<float>(packed.scale);
    const float offset = dmin * static_cast<float>(packed.min);
    const uint32_t shift = b % 2 == 0 ? 0 : 4;
    for (size_t l = 0; l < kSubBlock; ++l) {
      const uint32_t pair = block.qs[b / 2 * kSubBlock + l];
      const uint32_t low = (pair >> shift) & 0xFU;
      const uint32_t high = (block.qh[l] >> b) & 1U;
      values[b * kSubBlock + l] = scale * static_cast<float>(low | high << 4) - offset;
    }
  }
}

}  // namespace sluice::quant
