// MXFP4 encoding and decoding.
#include "quant/mxfp4.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "quant/e2m1.h"

namespace sluice::quant {
namespace {

constexpr size_t kN = BlockMXFP4::kElements;
constexpr size_t kHalf = kN / 2;
// 12 * 2^(252 - 128) is the largest product that is still finite.
constexpr int kLargestE = 252;

// The exponent that puts the largest magnitude into [8, 16) doubled units, with room for a neighbour either
// side.
int middle_exponent(std::span<const float, kN> values) {
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  const auto biased = static_cast<int>(std::bit_cast<uint32_t>(largest) >> 23);
  return std::clamp(biased - 2, 1, kLargestE - 1);
}

}  // namespace

void dequantize(const BlockMXFP4& block, std::span<float, BlockMXFP4::kElements> values) {
  const float scale = mxfp4_scale(block.e);
  for (size_t j = 0; j < kHalf; ++j) {
    values[j] = scale * static_cast<float>(kE2m1Doubled[block.qs[j] & 0xF]);
    values[j + kHalf] = scale * static_cast<float>(kE2m1Doubled[block.qs[j] >> 4]);
  }
}

void quantize(std::span<const float, BlockMXFP4::kElements> values, BlockMXFP4& block) {
  // Searched in units of the middle scale (an exact multiplication), so that no square leaves float's range.
  const int middle = middle_exponent(values);
  const float to_units = std::ldexp(1.0F, 128 - middle);
  std::array<float, kN> units;
  std::array<float, kN> magnitudes;
  for (size_t i = 0; i < kN; ++i) {
    units[i] = values[i] * to_units;
    magnitudes[i] = std::fabs(units[i]);
  }
  int best = 0;
  float least_error = e2m1_error<kN>(magnitudes, 1.0F);
  for (const int step : {1, -1}) {
    const float error = e2m1_error<kN>(magnitudes, step > 0 ? 2.0F : 0.5F);
    if (error < least_error) {
      best = step;
      least_error = error;
    }
  }
  const std::array<uint8_t, kN> codes = e2m1_codes<kN>(units, best == 0 ? 1.0F : (best > 0 ? 2.0F : 0.5F));
  block.e = static_cast<uint8_t>(middle + best);
  for (size_t j = 0; j < kHalf; ++j) {
    block.qs[j] = static_cast<uint8_t>(codes[j] | codes[j + kHalf] << 4);
  }
}

}  // namespace sluice::quant
