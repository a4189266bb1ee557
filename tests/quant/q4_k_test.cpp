// Q4_K: a block built by hand, the encoder's two-sided fit, and its limits.
#include "quant/q4_k.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

using Values = std::array<float, 256>;

Values round_trip(const Values& values) {
  BlockQ4_K block;
  quantize(values, block);
  Values back;
  dequantize(block, back);
  return back;
}

TEST(Q4_K, DecodesByHand) {
  BlockQ4_K block{.d = 0x3C00, .dmin = 0x3800, .scales = {}, .qs = {}};  // 1 and 0.5
  block.scales[0] = 1;                                                   // sub-block 0: scale 1
  block.scales[4] = 2;                                                   //              min 2
  block.scales[1] = 63 | 2 << 6;  // sub-block 1: scale 63; sub-block 5: scale's top bits 10
  block.scales[5] = 7 | 2 << 6;   //              min 7;                 min's top bits 10
  block.scales[9] = 0x6D;         // sub-block 5: scale 10'1101 = 45, min 10'0110 = 38
  block.qs[0] = 0xF3;             // element 0 of sub-block 0: 3, of sub-block 1: 15
  block.qs[31] = 0x1A;            // element 31 of sub-block 0: 10, of sub-block 1: 1
  block.qs[64 + 5] = 0x92;        // element 5 of sub-block 4: 2, of sub-block 5: 9
  Values values;
  dequantize(block, values);
  EXPECT_EQ(values[0], 3.0F - 1.0F);
  EXPECT_EQ(values[31], 10.0F - 1.0F);
  EXPECT_EQ(values[1], -1.0F);
  EXPECT_EQ(values[32], 63.0F * 15.0F - 3.5F);
  EXPECT_EQ(values[63], 63.0F - 3.5F);
  EXPECT_EQ(values[128 + 5], 0.0F);  // sub-block 4 has scale and min 0
  EXPECT_EQ(values[160 + 5], 45.0F * 9.0F - 19.0F);
  EXPECT_EQ(values[160], -19.0F);
}

TEST(Q4_K, ProductsAreRoundedApart) {
  // d * 63 needs 17 bits and * 15 four more; dmin * 61 is tiny beside it. A fused product and difference
  // would differ in the last place for many such blocks.
  BlockQ4_K block{.d = 0x3FFF, .dmin = 0x0BFF, .scales = {63, 0, 0, 0, 61}, .qs = {15}};
  Values values;
  dequantize(block, values);
  const volatile float product = (1.9990234375F * 63.0F) * 15.0F;
  const volatile float offset = 0x1.ffcp-13F * 61.0F;
  EXPECT_EQ(values[0], product - offset);
}

TEST(Q4_K, DecodesNegativeScales) {
  const BlockQ4_K block{.d = 0xBC00, .dmin = 0xB800, .scales = {2, 0, 0, 0, 4}, .qs = {0x05}};
  Values values;
  dequantize(block, values);
  EXPECT_EQ(values[0], -2.0F * 5.0F + 2.0F);
}

TEST(Q4_K, ReproducesALineExactly) {
  // Scale 63 * 2^-6 and offset 63 * 2^-4 are what the encoder's largest sub-block gets: d = 2^-6, dmin =
  // 2^-4.
  Values values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 0.984375F * static_cast<float>(i % 16) - 3.9375F;
  }
  EXPECT_EQ(round_trip(values), values);
}

TEST(Q4_K, PositiveValuesNeedNoOffset) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  Values values;
  for (float& value : values) {
    value = random.uniform(5.0F, 6.0F);
  }
  const Values back = round_trip(values);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(back[i], values[i], 0.31F)
        << i;  // 6 / 15 is a step when nothing below 5 is there to be represented
  }
}

TEST(Q4_K, NegativeConstantIsAllOffset) {
  Values values;
  values.fill(-3.0F);
  const Values back = round_trip(values);
  for (const float value : back) {
    ASSERT_NEAR(value, -3.0F, 3.0F * 0x1p-11F);
  }
}

TEST(Q4_K, SubBlocksOfDifferentSizeKeepTheirOwnScale) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  Values values;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = random.uniform(-1.0F, 1.0F) * (i / 32 == 3 ? 1.0F : 0.1F);
  }
  const Values back = round_trip(values);
  for (size_t i = 0; i < values.size(); ++i) {
    const float step = (i / 32 == 3 ? 2.0F : 0.2F) / 15.0F;
    ASSERT_NEAR(back[i], values[i], 1.5F * step) << i;  // levels of a small sub-block are coarse
  }
}

TEST(Q4_K, SaturatesWhereTheScalesEnd) {
  Values values{};
  values[0] = 3e38F;
  values[33] = -3e38F;
  const Values back = round_trip(values);
  EXPECT_EQ(back[0], 65504.0F * 63.0F * 15.0F);
  EXPECT_EQ(back[33], -65504.0F * 63.0F);
  for (const float value : back) {
    ASSERT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace sluice::quant
