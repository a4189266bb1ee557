// Exact scalar conversions between float and the small number types that weights and caches are stored in.
#pragma once

#include <bit>
#include <cstdint>

namespace sluice {

/// bfloat16 is the top half of a float.
constexpr float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest, ties to even; NaN stays NaN.
constexpr uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
    return static_cast<uint16_t>((bits >> 16) | 0x40U);
  }
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// IEEE binary16, subnormals and infinities included.
float f16_to_f32(uint16_t bits);
/// Round to nearest, ties to even; too large becomes infinity.
uint16_t f32_to_f16(float value);

/// OCP e4m3 "fn": 1-4-3, bias 7, no infinity, 0x7F and 0xFF are NaN, largest 448.
float e4m3_to_f32(uint8_t bits);
/// Round to nearest, ties to even, saturating at +-448.
uint8_t f32_to_e4m3(float value);

/// e8m0: the power of two 2^(bits - 127); 0xFF is NaN.
float e8m0_to_f32(uint8_t bits);

/// e2m1, the 4-bit float of MXFP4 and NVFP4, times two so that it is an integer: index is the 4-bit code.
inline constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace sluice
