// Q8_0 encoding and decoding.
#include "quant/q8_0.h"

#include "quant/base/number.h"
#include "quant/scale_search.h"

namespace sluice::quant {
namespace {

constexpr size_t kN = BlockQ8_0::kElements;
constexpr CodeRange kCodes{-127.0F, 127.0F};
// The largest value is tried at codes 127 down to this one. A coarser grid loses on average, but 32 values
// are few enough for one of several to fit them better by luck. On normal data the relative error is 0.525 %
// with 127 alone, 0.477 % down to 120, 0.472 % down to 112 at 1.6 times the cost (measured).
constexpr int kLastLargestCode = 120;

float best_scale(std::span<const float, kN> values, float largest) {
  float best = storable_scale(largest / kCodes.high);
  GridFit best_fit = fit_to_grid(values, best, kCodes);
  for (int code = 126; code >= kLastLargestCode && best_fit.error > 0.0F; --code) {
    const float scale = storable_scale(largest / static_cast<float>(code));
    const GridFit fit = fit_to_grid(values, scale, kCodes);
    if (fit.error < best_fit.error) {
      best = scale;
      best_fit = fit;
    }
  }
  const float refitted = storable_scale(best_fit.refitted_scale());
  if (refitted > 0.0F && fit_to_grid(values, refitted, kCodes).error < best_fit.error) {
    best = refitted;
  }
  return best;
}

}  // namespace

void dequantize(const BlockQ8_0& block, std::span<float, BlockQ8_0::kElements> values) {
  const float d = f16_to_f32(block.d);
  for (size_t i = 0; i < kN; ++i) {
    values[i] = d * static_cast<float>(block.q[i]);
  }
}

void quantize(std::span<const float, BlockQ8_0::kElements> values, BlockQ8_0& block) {
  const float largest = largest_magnitude(values);
  const float d = largest > 0.0F ? best_scale(values, largest) : 0.0F;
  const float inverse = d > 0.0F ? 1.0F / d : 0.0F;
  block.d = f32_to_f16(d);
  for (size_t i = 0; i < kN; ++i) {
    block.q[i] = static_cast<int8_t>(code_of(values[i], inverse, kCodes));
  }
}

}  // namespace sluice::quant
