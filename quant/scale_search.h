// What the encoders share: which f16 scale to store, and how well a scale fits values on a grid of integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/base/number.h"
#include "quant/lanes.h"

namespace sluice::quant {

inline constexpr float kLargestF16 = 65504.0F;
inline constexpr float kSmallestF16 = 0x1p-24F;

/// The f16 to store for a wanted scale >= 0. Never infinite. Where f16 is coarse (subnormals) it is rounded
/// up, so that the largest value still fits the codes; 0 only for 0. Returns the stored value, which f16
/// holds exactly.
inline float storable_scale(float wanted) {
  if (wanted >= kLargestF16) {
    return kLargestF16;
  }
  if (wanted < 0x1p-14F) {
    return std::ceil(wanted * 0x1p24F) * kSmallestF16;
  }
  return f16_to_f32(f32_to_f16(wanted));
}

/// Into [low, high], low < 0 < high; NaN becomes 0. Refusing NaN is the caller's duty, but without this a
/// forgotten check would end in an undefined conversion to an integer instead of a wrong block.
inline float bounded(float value, float low, float high) {
  return std::isnan(value) ? 0.0F : std::clamp(value, low, high);
}

template <size_t N>
float largest_magnitude(std::span<const float, N> values) {
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

/// Integer codes [low, high] of a symmetric grid: value = scale * code.
struct CodeRange {
  float low;
  float high;
};

/// code = round(value / scale), clamped. `scale` must not be 0.
inline float code_of(float value, float inverse_scale, CodeRange codes) {
  return round1(bounded(value * inverse_scale, codes.low, codes.high));
}

/// Sums over one block of values x and their codes q at some scale.
struct GridFit {
  float error = 0.0F;   // sum (x - scale * q)^2
  float dot_xq = 0.0F;  // sum x * q
  float dot_qq = 0.0F;  // sum q * q

  /// The scale of least squared error for these codes; 0 when all codes are 0.
  [[nodiscard]] float refitted_scale() const { return dot_qq > 0.0F ? dot_xq / dot_qq : 0.0F; }
};

template <size_t N>
GridFit fit_to_grid(std::span<const float, N> values, float scale, CodeRange codes) {
  static_assert(N % kLanes == 0);
  const Float4 inverse = splat4(1.0F / scale);
  Float4 error = splat4(0.0F);
  Float4 dot_xq = error;
  Float4 dot_qq = error;
  for (size_t i = 0; i < N; i += kLanes) {
    const Float4 x = load4(values.data() + i);
    const Float4 q = round4(clamp4(x * inverse, codes.low, codes.high));
    const Float4 difference = x - splat4(scale) * q;
    error += difference * difference;
    dot_xq += x * q;
    dot_qq += q * q;
  }
  return {sum4(error), sum4(dot_xq), sum4(dot_qq)};
}

}  // namespace sluice::quant
