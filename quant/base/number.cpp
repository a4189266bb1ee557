// Conversions of binary16, e4m3 and e8m0. Formulas: IEEE 754 and the OCP 8-bit floating point formats.
#include "quant/base/number.h"

#include <array>

namespace sluice {
namespace {

constexpr uint32_t kF32SignMask = 0x80000000U;
constexpr uint32_t kF32Infinity = 0x7F800000U;

// Adding a float whose unit in the last place is the smallest subnormal of the target rounds to a multiple of
// it, ties to even; the count of units is then the difference of the bit patterns.
uint32_t count_of_units(float magnitude, float unit_in_last_place_of) {
  return std::bit_cast<uint32_t>(magnitude + unit_in_last_place_of) -
         std::bit_cast<uint32_t>(unit_in_last_place_of);
}

// Drops `dropped` mantissa bits from `bits`, to nearest with ties to even. A carry moves into the exponent.
constexpr uint32_t round_off(uint32_t bits, int dropped) {
  const uint32_t half = 1U << (dropped - 1);
  return (bits + (half - 1U) + ((bits >> dropped) & 1U)) >> dropped;
}

constexpr float decode_e4m3(uint32_t bits) {
  const uint32_t sign = (bits & 0x80U) << 24;
  const uint32_t exponent = (bits >> 3) & 0xFU;
  const uint32_t mantissa = bits & 0x7U;
  if ((bits & 0x7FU) == 0x7FU) {
    return std::bit_cast<float>(sign | 0x7FC00000U);
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 127U - 7U) << 23) | (mantissa << 20));
}

constexpr std::array<float, 256> make_e4m3_table() {
  std::array<float, 256> table{};
  for (uint32_t bits = 0; bits < 256; ++bits) {
    table[bits] = decode_e4m3(bits);
  }
  return table;
}

constexpr std::array<float, 256> kE4m3Values = make_e4m3_table();

}  // namespace

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1FU;
  const uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) {
    // A NaN is made quiet and keeps its payload, as the hardware's conversion does.
    const uint32_t quiet = mantissa == 0 ? 0U : 0x00400000U;
    return std::bit_cast<float>(sign | kF32Infinity | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 127U - 15U) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits & kF32SignMask) >> 16;
  const uint32_t magnitude = bits & ~kF32SignMask;
  if (magnitude > kF32Infinity) {
    return static_cast<uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  }
  if (magnitude < 0x38800000U) {  // below 2^-14, the smallest normal: multiples of 2^-24
    return static_cast<uint16_t>(sign | count_of_units(std::bit_cast<float>(magnitude), 0.5F));
  }
  if (magnitude >= 0x477FF000U) {  // 65520, halfway between the largest value and what would follow it
    return static_cast<uint16_t>(sign | 0x7C00U);
  }
  return static_cast<uint16_t>(sign | round_off(magnitude - ((127U - 15U) << 23), 13));
}

float e4m3_to_f32(uint8_t bits) {
  return kE4m3Values[bits];
}

uint8_t f32_to_e4m3(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits & kF32SignMask) >> 24;
  const uint32_t magnitude = bits & ~kF32SignMask;
  if (magnitude > kF32Infinity) {
    return static_cast<uint8_t>(sign | 0x7FU);
  }
  if (magnitude < 0x3C800000U) {  // below 2^-6, the smallest normal: multiples of 2^-9
    return static_cast<uint8_t>(sign | count_of_units(std::bit_cast<float>(magnitude), 0x1p14F));
  }
  if (magnitude >= 0x43E00000U) {  // 448
    return static_cast<uint8_t>(sign | 0x7EU);
  }
  return static_cast<uint8_t>(sign | round_off(magnitude - ((127U - 7U) << 23), 20));
}

float e8m0_to_f32(uint8_t bits) {
  if (bits == 0) {
    return 0x1p-127F;
  }
  if (bits == 0xFF) {
    return std::bit_cast<float>(0x7FC00000U);
  }
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 23);
}

}  // namespace sluice
