// Q5_0 decoding.
#include "quant/q5_0.h"

#include <cstring>

#include "quant/base/number.h"

namespace sluice::quant {

void dequantize(const BlockQ5_0& block, std::span<float, BlockQ5_0::kElements> values) {
  constexpr size_t kHalf = BlockQ5_0::kElements / 2;
  const float d = f16_to_f32(block.d);
  uint32_t high_bits = 0;
  std::memcpy(&high_bits, block.qh, sizeof(high_bits));
  const auto code = [high_bits](uint32_t low, size_t element) {
    return static_cast<int>(low | ((high_bits >> element) & 1U) << 4) - 16;
  };
  for (size_t j = 0; j < kHalf; ++j) {
    values[j] = d * static_cast<float>(code(block.qs[j] & 0xFU, j));
    values[j + kHalf] = d * static_cast<float>(code(block.qs[j] >> 4U, j + kHalf));
  }
}

}  // namespace sluice::quant
