// Rounding to e2m1, the 4-bit float of MXFP4 and NVFP4, in doubled units where its magnitudes are 0 1 2 3 4 6
// 8 12.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/lanes.h"

namespace sluice::quant {

inline constexpr float kE2m1LargestDoubled = 12.0F;

/// The nearest doubled magnitude to y >= 0, saturating at 12. A tie goes to the even multiple of the step.
inline Float4 round_to_e2m1(Float4 y) {
  const Float4 clamped = clamp4(y, 0.0F, kE2m1LargestDoubled);
  const Float4 step =
      clamped > splat4(8.0F) ? splat4(4.0F) : (clamped > splat4(4.0F) ? splat4(2.0F) : splat4(1.0F));
  const Float4 inverse =
      clamped > splat4(8.0F) ? splat4(0.25F) : (clamped > splat4(4.0F) ? splat4(0.5F) : splat4(1.0F));
  return round4(clamped * inverse) * step;
}

/// sum (m - scale * e2m1(m / scale))^2 over magnitudes m >= 0; `scale` belongs to the doubled units.
template <size_t N>
float e2m1_error(std::span<const float, N> magnitudes, float scale) {
  static_assert(N % kLanes == 0);
  const Float4 inverse = splat4(1.0F / scale);
  Float4 error = splat4(0.0F);
  for (size_t i = 0; i < N; i += kLanes) {
    const Float4 m = load4(magnitudes.data() + i);
    const Float4 difference = m - splat4(scale) * round_to_e2m1(m * inverse);
    error += difference * difference;
  }
  return sum4(error);
}

/// The 4-bit codes of `values` at `scale`; all 0 when scale is 0. Values that round to zero get code 0, not
/// -0.
template <size_t N>
std::array<uint8_t, N> e2m1_codes(std::span<const float, N> values, float scale) {
  static_assert(N % kLanes == 0);
  // Code of each doubled magnitude; the gaps cannot be asked for.
  constexpr uint8_t kCodes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7};
  const Float4 inverse = splat4(scale > 0.0F ? 1.0F / scale : 0.0F);
  std::array<uint8_t, N> codes;
  for (size_t i = 0; i < N; i += kLanes) {
    const Float4 magnitudes = round_to_e2m1(abs4(load4(values.data() + i)) * inverse);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const uint8_t code = kCodes[static_cast<size_t>(magnitudes[lane])];
      codes[i + lane] = static_cast<uint8_t>(code | (code != 0 && values[i + lane] < 0.0F ? 8U : 0U));
    }
  }
  return codes;
}

}  // namespace sluice::quant
