// Q6_K encoding and decoding.
#include "quant/q6_k.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "quant/scale_search.h"

namespace sluice::quant {
namespace {

constexpr size_t kN = BlockQ6_K::kElements;
constexpr size_t kSubBlocks = BlockQ6_K::kSubBlocks;
constexpr size_t kSubBlock = kN / kSubBlocks;  // 16
constexpr CodeRange kCodes{-32.0F, 31.0F};
constexpr float kLargestScale = 127.0F;
constexpr float kLargestValue = kLargestF16 * 32.0F * kLargestScale;
// The value of largest magnitude is tried at codes -32 up to this one (the sub-block's scale takes the sign).
constexpr int kLastExtremeCode = -26;
// Once d is known, the integer scale is sought this far around the ideal one.
constexpr int kScaleReach = 2;

// Where element i's bits lie (q6_k.h).
struct Place {
  size_t low_byte;
  size_t high_byte;
  uint32_t low_shift;
  uint32_t high_shift;
};

constexpr Place place_of(size_t i) {
  const size_t half = i / 128;
  const size_t group = i % 128 / 32;
  const size_t l = i % 32;
  return {half * 64 + l + 32 * (group % 2), half * 32 + l, group < 2 ? 0U : 4U,
          static_cast<uint32_t>(2 * group)};
}

using SubBlock = std::span<const float, kSubBlock>;

SubBlock sub_block_of(std::span<const float, kN> values, size_t s) {
  return values.subspan(s * kSubBlock).first<kSubBlock>();
}

// The real-valued scale of least squared error, signed; 0 for a sub-block of zeros.
float ideal_scale(SubBlock values) {
  float extreme = 0.0F;
  for (const float value : values) {
    extreme = std::fabs(value) > std::fabs(extreme) ? value : extreme;
  }
  // Below half of what d * 1 * 32 can be, all codes are 0 anyway; the bound also keeps 1 / scale finite.
  if (std::fabs(extreme) < kSmallestF16 / 2.0F) {
    return 0.0F;
  }
  float best = 0.0F;
  float least_error = 0.0F;
  for (int code = -32; code <= kLastExtremeCode; ++code) {
    const float scale = extreme / static_cast<float>(code);
    const float error = fit_to_grid(values, scale, kCodes).error;
    if (best == 0.0F || error < least_error) {
      best = scale;
      least_error = error;
    }
  }
  return best;
}

// The integer scale of least squared error when d is given (d > 0).
int8_t best_integer_scale(SubBlock values, float d, float ideal) {
  const auto nearest = static_cast<int>(round1(std::clamp(ideal / d, -kLargestScale, kLargestScale)));
  int best = 0;
  float least_error = 0.0F;
  for (const float value : values) {
    least_error += value * value;
  }
  // The sub-block that d was made for keeps its extreme level: encoding decoded values again then finds the
  // same d.
  const int reach = std::abs(nearest) == 127 ? 0 : kScaleReach;
  for (int scale = nearest - reach; scale <= nearest + reach; ++scale) {
    if (scale == 0 || scale < -127 || scale > 127) {
      continue;
    }
    const float error = fit_to_grid(values, d * static_cast<float>(scale), kCodes).error;
    if (error < least_error) {
      best = scale;
      least_error = error;
    }
  }
  return static_cast<int8_t>(best);
}

void write_codes(std::span<const float, kN> values, float d, BlockQ6_K& block) {
  std::fill(std::begin(block.ql), std::end(block.ql), uint8_t{0});
  std::fill(std::begin(block.qh), std::end(block.qh), uint8_t{0});
  for (size_t i = 0; i < kN; ++i) {
    const int8_t level = block.scales[i / kSubBlock];
    const float scale = d * static_cast<float>(level);
    const float inverse = scale != 0.0F ? 1.0F / scale : 0.0F;
    const auto code = static_cast<uint32_t>(static_cast<int>(code_of(values[i], inverse, kCodes)) + 32);
    const Place place = place_of(i);
    block.ql[place.low_byte] =
        static_cast<uint8_t>(block.ql[place.low_byte] | (code & 0xFU) << place.low_shift);
    block.qh[place.high_byte] =
        static_cast<uint8_t>(block.qh[place.high_byte] | (code >> 4) << place.high_shift);
  }
}

}  // namespace

void dequantize(const BlockQ6_K& block, std::span<float, BlockQ6_K::kElements> values) {
  const float d = f16_to_f32(block.d);
  for (size_t i = 0; i < kN; ++i) {
    const Place place = place_of(i);
    const uint32_t low = (block.ql[place.low_byte] >> place.low_shift) & 0xFU;
    const uint32_t high = (block.qh[place.high_byte] >> place.high_shift) & 0x3U;
    const int code = static_cast<int>(low | high << 4) - 32;
    const int8_t level = block.scales[i / kSubBlock];
    values[i] = (d * static_cast<float>(level)) * static_cast<float>(code);
  }
}

void quantize(std::span<const float, BlockQ6_K::kElements> values, BlockQ6_K& block) {
  std::array<float, kN> limited;  // squares of larger values would overflow
  std::transform(values.begin(), values.end(), limited.begin(),
                 [](float value) { return bounded(value, -kLargestValue, kLargestValue); });
  std::array<float, kSubBlocks> ideal;
  for (size_t s = 0; s < kSubBlocks; ++s) {
    ideal[s] = ideal_scale(sub_block_of(limited, s));
  }
  const float d =
      storable_scale(largest_magnitude(std::span<const float, kSubBlocks>(ideal)) / kLargestScale);
  for (size_t s = 0; s < kSubBlocks; ++s) {
    block.scales[s] = d > 0.0F ? best_integer_scale(sub_block_of(limited, s), d, ideal[s]) : int8_t{0};
  }
  block.d = f32_to_f16(d);
  write_codes(limited, d, block);
}

}  // namespace sluice::quant
