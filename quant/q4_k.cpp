// Q4_K encoding and decoding.
#include "quant/q4_k.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "quant/scale_search.h"

namespace sluice::quant {
namespace {

constexpr size_t kN = BlockQ4_K::kElements;
constexpr size_t kSubBlock = kN / kKSubBlocks;  // 32
constexpr float kLargestCode = 15.0F;
constexpr float kLargestScale = 63.0F;  // of scales and minima alike
constexpr float kLargestValue = kLargestF16 * kLargestScale;
// Steps of the range tried for the first fit: range / (15 + t), t from -1 to 2. More t > 0 clip the top.
constexpr float kFirstStretch = -1.0F;
constexpr float kLastStretch = 2.0F;
constexpr float kStretchStep = 0.2F;

using SubBlock = std::span<const float, kSubBlock>;

SubBlock sub_block_of(std::span<const float, kN> values, size_t s) {
  return values.subspan(s * kSubBlock).first<kSubBlock>();
}

// value = scale * code - offset, scale >= 0 and offset >= 0.
struct Line {
  float scale = 0.0F;
  float offset = 0.0F;
};

struct LineFit {
  Line line;
  float error = 0.0F;
};

// The least-squares line, with offset >= 0, for codes round((x - low) * inverse_step) in 0..15.
// Sums run over x - low >= 0 so that a large common offset costs no precision.
LineFit refit_line(SubBlock values, float low, float inverse_step) {
  Float4 sum_q = splat4(0.0F);
  Float4 sum_qq = sum_q;
  Float4 sum_x = sum_q;
  Float4 sum_xx = sum_q;
  Float4 sum_xq = sum_q;
  for (size_t i = 0; i < kSubBlock; i += kLanes) {
    const Float4 x = load4(values.data() + i) - splat4(low);
    const Float4 q = round4(clamp4(x * splat4(inverse_step), 0.0F, kLargestCode));
    sum_q += q;
    sum_qq += q * q;
    sum_x += x;
    sum_xx += x * x;
    sum_xq += x * q;
  }
  constexpr auto kCount = static_cast<float>(kSubBlock);
  const float q = sum4(sum_q);
  const float qq = sum4(sum_qq);
  const float x = sum4(sum_x);
  const float xq = sum4(sum_xq);
  const float determinant = kCount * qq - q * q;
  float scale = determinant > 0.0F ? (kCount * xq - q * x) / determinant : 0.0F;
  float intercept = (x - scale * q) / kCount;
  if (intercept > -low) {  // the offset -(low + intercept) would be negative: pin it to 0
    intercept = -low;
    scale = qq > 0.0F ? (xq - intercept * q) / qq : 0.0F;
  }
  // sum (x - scale q - intercept)^2, expanded.
  const float error = sum4(sum_xx) - 2.0F * (scale * xq + intercept * x) +
                      (scale * scale * qq + 2.0F * scale * intercept * q + kCount * intercept * intercept);
  return {{std::max(scale, 0.0F), -(low + intercept)}, error};
}

Line ideal_line(SubBlock values) {
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  const float low = std::min(*smallest, 0.0F);
  const float range = *largest - low;
  if (range < kSmallestF16) {  // constant as far as f16 scales can tell, and 1 / range may not be finite
    return {0.0F, -low};
  }
  LineFit best = refit_line(values, low, kLargestCode / range);
  for (float stretch = kFirstStretch; stretch <= kLastStretch; stretch += kStretchStep) {
    const LineFit fit = refit_line(values, low, (kLargestCode + stretch) / range);
    if (fit.error < best.error) {
      best = fit;
    }
  }
  return best.line;
}

float line_error(SubBlock values, Line line) {
  const Float4 inverse = splat4(line.scale > 0.0F ? 1.0F / line.scale : 0.0F);
  Float4 error = splat4(0.0F);
  for (size_t i = 0; i < kSubBlock; i += kLanes) {
    const Float4 x = load4(values.data() + i) + splat4(line.offset);
    const Float4 q = round4(clamp4(x * inverse, 0.0F, kLargestCode));
    const Float4 difference = x - splat4(line.scale) * q;
    error += difference * difference;
  }
  return sum4(error);
}

// Integer in 0..63 nearest to value / unit; 0 when unit is 0.
int nearest_level(float value, float unit) {
  return unit > 0.0F ? static_cast<int>(round1(std::clamp(value / unit, 0.0F, kLargestScale))) : 0;
}

// The integer scale and minimum of least squared error, among the ideal line's neighbours, when d and dmin
// are given.
ScaleMin best_levels(SubBlock values, Line ideal, Line unit) {
  const int scale = nearest_level(ideal.scale, unit.scale);
  const int min = nearest_level(ideal.offset, unit.offset);
  ScaleMin best{static_cast<uint8_t>(scale), static_cast<uint8_t>(min)};
  float least_error =
      line_error(values, {unit.scale * static_cast<float>(scale), unit.offset * static_cast<float>(min)});
  // A sub-block that d or dmin was made for keeps that level: encoding decoded values again then finds the
  // same d.
  const int scale_reach = scale == 63 ? 0 : 1;
  const int min_reach = min == 63 ? 0 : 1;
  for (int s = std::max(scale - scale_reach, 0); s <= scale + scale_reach; ++s) {
    for (int m = std::max(min - min_reach, 0); m <= min + min_reach; ++m) {
      const float error =
          line_error(values, {unit.scale * static_cast<float>(s), unit.offset * static_cast<float>(m)});
      if (error < least_error) {
        best = {static_cast<uint8_t>(s), static_cast<uint8_t>(m)};
        least_error = error;
      }
    }
  }
  return best;
}

void write_codes(std::span<const float, kN> values, Line unit, const ScaleMin (&levels)[kKSubBlocks],
                 BlockQ4_K& block) {
  std::fill(std::begin(block.qs), std::end(block.qs), uint8_t{0});
  for (size_t b = 0; b < kKSubBlocks; ++b) {
    const float scale = unit.scale * static_cast<float>(levels[b].scale);
    const float offset = unit.offset * static_cast<float>(levels[b].min);
    const float inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
    for (size_t l = 0; l < kSubBlock; ++l) {
      const float level = std::clamp((values[b * kSubBlock + l] + offset) * inverse, 0.0F, kLargestCode);
      uint8_t& byte = block.qs[b / 2 * kSubBlock + l];
      byte = static_cast<uint8_t>(byte | static_cast<uint32_t>(round1(level)) << (b % 2 * 4));
    }
  }
}

}  // namespace

void dequantize(const BlockQ4_K& block, std::span<float, BlockQ4_K::kElements> values) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (size_t b = 0; b < kKSubBlocks; ++b) {
    const ScaleMin packed = unpack_scale_min(block.scales, b);
    const float scale = d * static_cast<float>(packed.scale);
    const float offset = dmin * static_cast<float>(packed.min);
    const uint32_t shift = b % 2 == 0 ? 0 : 4;
    for (size_t l = 0; l < kSubBlock; ++l) {
      const uint32_t pair = block.qs[b / 2 * kSubBlock + l];
      const uint32_t code = (pair >> shift) & 0xFU;
      values[b * kSubBlock + l] = scale * static_cast<float>(code) - offset;
    }
  }
}

void quantize(std::span<const float, BlockQ4_K::kElements> values, BlockQ4_K& block) {
  std::array<float, kN> limited;  // squares of larger values would overflow
  std::transform(values.begin(), values.end(), limited.begin(),
                 [](float value) { return bounded(value, -kLargestValue, kLargestValue * kLargestCode); });
  std::array<Line, kKSubBlocks> ideal;
  Line largest;
  for (size_t b = 0; b < kKSubBlocks; ++b) {
    ideal[b] = ideal_line(sub_block_of(limited, b));
    largest = {std::max(largest.scale, ideal[b].scale), std::max(largest.offset, ideal[b].offset)};
  }
  const Line unit{storable_scale(largest.scale / kLargestScale),
                  storable_scale(largest.offset / kLargestScale)};
  ScaleMin levels[kKSubBlocks];
  for (size_t b = 0; b < kKSubBlocks; ++b) {
    levels[b] = best_levels(sub_block_of(limited, b), ideal[b], unit);
  }
  block.d = f32_to_f16(unit.scale);
  block.dmin = f32_to_f16(unit.offset);
  pack_scale_mins(levels, block.scales);
  write_codes(limited, unit, levels, block);
}

}  // namespace sluice::quant
