// Q4_0 decoding.
#include "quant/q4_0.h"

#include "quant/base/number.h"

namespace sluice::quant {

void dequantize(const BlockQ4_0& block, std::span<float, BlockQ4_0::kElements> values) {
  constexpr size_t kHalf = BlockQ4_0::kElements / 2;
  const float d = f16_to_f32(block.d);
  for (size_t j = 0; j < kHalf; ++j) {
    values[j] = d * static_cast<float>((block.qs[j] & 0xF) - 8);
    values[j + kHalf] = d * static_cast<float>((block.qs[j] >> 4) - 8);
  }
}

}  // namespace sluice::quant
