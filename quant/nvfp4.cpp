// NVFP4 encoding and decoding.
#include "quant/nvfp4.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "quant/e2m1.h"

namespace sluice::quant {
namespace {

constexpr size_t kSubBlock = BlockNVFP4::kElements / BlockNVFP4::kSubBlocks;  // 16
constexpr size_t kHalf = kSubBlock / 2;
constexpr int kLargestScaleBits = 0x7E;  // 448

// Scales tried around the one that maps the largest magnitude to 6. Downwards it is clipped; upwards, 4 takes
// its place within five codes (eight codes double a scale). Wider does not pay (measured).
constexpr int kCodesBelow = 3;
constexpr int kCodesAbove = 6;

// The scale byte of least squared error; 0 when every value is 0.
uint8_t best_scale(std::span<const float, kSubBlock> magnitudes) {
  const float largest = *std::max_element(magnitudes.begin(), magnitudes.end());
  if (largest == 0.0F) {
    return 0;
  }
  const int base = f32_to_e4m3(largest / 6.0F);
  const int last = std::min(base + kCodesAbove, kLargestScaleBits);
  int best = std::max(base - kCodesBelow, 1);
  float least_error = e2m1_error(magnitudes, nvfp4_half_scale(static_cast<uint8_t>(best)));
  for (int bits = best + 1; bits <= last; ++bits) {
    const float error = e2m1_error(magnitudes, nvfp4_half_scale(static_cast<uint8_t>(bits)));
    if (error < least_error) {
      best = bits;
      least_error = error;
    }
  }
  return static_cast<uint8_t>(best);
}

}  // namespace

float nvfp4_half_scale(uint8_t bits) {
  const auto magnitude = static_cast<uint8_t>(bits & 0x7F);
  return magnitude == 0x7F ? 0.0F : e4m3_to_f32(magnitude) * 0.5F;
}

void dequantize(const BlockNVFP4& block, std::span<float, BlockNVFP4::kElements> values) {
  for (size_t s = 0; s < BlockNVFP4::kSubBlocks; ++s) {
    const float scale = nvfp4_half_scale(block.d[s]);
    for (size_t j = 0; j < kHalf; ++j) {
      const uint8_t pair = block.qs[s * kHalf + j];
      values[s * kSubBlock + j] = scale * static_cast<float>(kE2m1Doubled[pair & 0xF]);
      values[s * kSubBlock + j + kHalf] = scale * static_cast<float>(kE2m1Doubled[pair >> 4]);
    }
  }
}

void quantize(std::span<const float, BlockNVFP4::kElements> values, BlockNVFP4& block) {
  for (size_t s = 0; s < BlockNVFP4::kSubBlocks; ++s) {
    const auto sub_block = values.subspan(s * kSubBlock).first<kSubBlock>();
    std::array<float, kSubBlock> magnitudes;
    for (size_t i = 0; i < kSubBlock; ++i) {
      // Beyond the largest representable value the search would only see overflowing squares.
      magnitudes[i] = std::min(std::fabs(sub_block[i]), kNvfp4Largest);
    }
    block.d[s] = best_scale(magnitudes);
    const std::array<uint8_t, kSubBlock> codes = e2m1_codes(sub_block, nvfp4_half_scale(block.d[s]));
    for (size_t j = 0; j < kHalf; ++j) {
      block.qs[s * kHalf + j] = static_cast<uint8_t>(codes[j] | codes[j + kHalf] << 4);
    }
  }
}

void nvfp4_from_modelopt(std::span<const std::byte, BlockNVFP4::kElements / 2> codes,
                         std::span<const std::byte, BlockNVFP4::kSubBlocks> e4m3_scales, BlockNVFP4& block) {
  // Code of column c of the row, low nibble first.
  const auto code = [codes](size_t c) {
    return (std::to_integer<uint32_t>(codes[c / 2]) >> (c % 2 * 4)) & 0xFU;
  };
  for (size_t s = 0; s < BlockNVFP4::kSubBlocks; ++s) {
    block.d[s] = static_cast<uint8_t>(std::to_integer<uint32_t>(e4m3_scales[s]) & 0x7FU);
    for (size_t j = 0; j < kHalf; ++j) {
      const size_t column = s * kSubBlock + j;
      block.qs[s * kHalf + j] = static_cast<uint8_t>(code(column) | code(column + kHalf) << 4);
    }
  }
}

}  // namespace sluice::quant
