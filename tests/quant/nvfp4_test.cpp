// NVFP4: blocks built by hand, e4m3's edges as scales, the encoder against an exhaustive search, and
// ModelOpt's layout.
#include "quant/nvfp4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

using Values = std::array<float, 64>;

constexpr float kE2M1[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6};

Values decoded(const BlockNVFP4& block) {
  Values values;
  dequantize(block, values);
  return values;
}

BlockNVFP4 encoded(const Values& values) {
  BlockNVFP4 block;
  quantize(values, block);
  return block;
}

TEST(NVFP4, DecodesByHand) {
  // Codes 0..15 in every sub-block: byte j holds code j low and code j + 8 high.
  BlockNVFP4 block{.d = {0x38, 0x7E, 0x01, 0x45}, .qs = {}};  // 1, 448, 2^-9, 3.25
  for (size_t i = 0; i < 32; ++i) {
    block.qs[i] = static_cast<uint8_t>(i % 8 | (i % 8 + 8) << 4);
  }
  const float scales[4] = {1.0F, 448.0F, 0x1p-9F, 3.25F};
  const Values values = decoded(block);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], scales[i / 16] * kE2M1[i % 16]) << i;
  }
}

TEST(NVFP4, NibbleOrderIsByEightNotSixteen) {
  BlockNVFP4 block{.d = {0x38, 0x38, 0x38, 0x38}, .qs = {}};
  block.qs[8 * 2 + 3] = 0xF2;  // sub-block 2, byte 3: element 3 code 2, element 11 code 15
  const Values values = decoded(block);
  EXPECT_EQ(values[32 + 3], 1.0F);
  EXPECT_EQ(values[32 + 11], -6.0F);
  EXPECT_EQ(values[32 + 4], 0.0F);
}

TEST(NVFP4, ScaleEdges) {
  EXPECT_EQ(nvfp4_half_scale(0x00), 0.0F);
  EXPECT_EQ(nvfp4_half_scale(0x7F), 0.0F);  // NaN in e4m3, zero here
  EXPECT_EQ(nvfp4_half_scale(0xFF), 0.0F);
  EXPECT_EQ(nvfp4_half_scale(0x7E), 224.0F);
  for (int m = 0; m < 8; ++m) {
    EXPECT_EQ(nvfp4_half_scale(static_cast<uint8_t>(m)), static_cast<float>(m) * 0x1p-10F);
  }
  for (int bits = 0; bits < 0x7F; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    EXPECT_EQ(nvfp4_half_scale(code), e4m3_to_f32(code) / 2.0F);
    EXPECT_EQ(nvfp4_half_scale(static_cast<uint8_t>(code | 0x80)), nvfp4_half_scale(code));
  }
}

// Squared error of sixteen values at scale byte `bits`, by looking at all codes.
double error_at(const float* values, uint8_t bits) {
  double sum = 0.0;
  for (size_t i = 0; i < 16; ++i) {
    double least = 1e300;
    for (const float code : kE2M1) {
      const double difference =
          static_cast<double>(values[i]) - static_cast<double>(code * e4m3_to_f32(bits));
      least = std::min(least, difference * difference);
    }
    sum += least;
  }
  return sum;
}

TEST(NVFP4, EncoderIsCloseToTheExhaustiveSearch) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  double best_sum = 0.0;
  double sum = 0.0;
  for (int trial = 0; trial < 500; ++trial) {
    Values values;
    const std::vector<float> fresh = random.normal(64);
    std::copy(fresh.begin(), fresh.end(), values.begin());
    const BlockNVFP4 block = encoded(values);
    const Values back = decoded(block);
    for (size_t s = 0; s < 4; ++s) {
      double error = 0.0;
      for (size_t i = 16 * s; i < 16 * s + 16; ++i) {
        error += std::pow(static_cast<double>(back[i]) - static_cast<double>(values[i]), 2);
      }
      ASSERT_NEAR(error, error_at(&values[16 * s], block.d[s]), 1e-5);  // codes are the nearest ones
      double best = 1e300;
      for (int bits = 0; bits < 0x7F; ++bits) {
        best = std::min(best, error_at(&values[16 * s], static_cast<uint8_t>(bits)));
      }
      sum += error;
      best_sum += best;
    }
  }
  EXPECT_LE(std::sqrt(sum / best_sum), 1.005);
}

TEST(NVFP4, Saturates) {
  Values values{};
  values[0] = 3e38F;
  values[17] = -3000.0F;
  values[32] = 2688.0F;
  const Values back = decoded(encoded(values));
  EXPECT_EQ(back[0], kNvfp4Largest);
  EXPECT_EQ(back[17], -kNvfp4Largest);
  EXPECT_EQ(back[32], 2688.0F);
  EXPECT_EQ(back[1], 0.0F);
}

TEST(NVFP4, ValuesBelowTheSmallestScale) {
  Values values{};
  values[0] = 0x1p-10F;  // the smallest magnitude: 0.5 * 2^-9
  values[16] = 1e-30F;   // far below it
  values[32] = 1e-40F;
  const Values back = decoded(encoded(values));
  EXPECT_EQ(back[0], 0x1p-10F);
  EXPECT_EQ(back[16], 0.0F);
  EXPECT_EQ(back[32], 0.0F);
}

TEST(NVFP4, TakesOverModelOptBlocksWithoutLoss) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 200; ++trial) {
    const std::vector<std::byte> codes = random.bytes(32);
    std::array<std::byte, 4> scales;
    for (std::byte& scale : scales) {
      scale = static_cast<std::byte>(random.integer(0, 0x7E));
    }
    BlockNVFP4 block;
    nvfp4_from_modelopt(std::span(codes).first<32>(), scales, block);
    const Values values = decoded(block);
    for (size_t column = 0; column < 64; ++column) {
      const auto pair = std::to_integer<unsigned>(codes[column / 2]);
      const unsigned code = column % 2 == 0 ? pair % 16 : pair / 16;
      const float scale = e4m3_to_f32(std::to_integer<uint8_t>(scales[column / 16]));
      ASSERT_EQ(values[column], kE2M1[code] * scale) << column;
      // The code itself is kept, -0 included.
      const size_t element = column % 16;
      const uint8_t stored = block.qs[column / 16 * 8 + element % 8];
      ASSERT_EQ(element < 8 ? stored % 16U : stored / 16U, code) << column;
    }
  }
}

TEST(NVFP4, ModelOptScalesLoseOnlyTheirSign) {
  const std::array<std::byte, 32> codes{std::byte{0x72}};  // column 0: 1, column 1: 6
  const std::array<std::byte, 4> scales{std::byte{0xB8}, std::byte{0x7F}};
  BlockNVFP4 block;
  nvfp4_from_modelopt(codes, scales, block);
  EXPECT_EQ(block.d[0], 0x38);
  EXPECT_EQ(block.d[1], 0x7F);
  EXPECT_EQ(decoded(block)[0], 1.0F);
  EXPECT_EQ(decoded(block)[1], 6.0F);
}

}  // namespace
}  // namespace sluice::quant
