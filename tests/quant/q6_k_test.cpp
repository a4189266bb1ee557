// Q6_K: a block built by hand, every element's place, and the encoder's limits.
#include "quant/q6_k.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

using Values = std::array<float, 256>;

Values decoded(const BlockQ6_K& block) {
  Values values;
  dequantize(block, values);
  return values;
}

Values round_trip(const Values& values) {
  BlockQ6_K block;
  quantize(values, block);
  return decoded(block);
}

TEST(Q6_K, DecodesByHand) {
  BlockQ6_K block{.ql = {}, .qh = {}, .scales = {}, .d = 0x3800};  // 0.5
  block.ql[0] = 0xA5;
  block.ql[32] = 0x3C;
  block.qh[0] = 0xE4;  // 11'10'01'00: high bits 0, 1, 2, 3 of elements 0, 32, 64, 96
  block.scales[0] = 2;
  block.scales[2] = -3;
  block.scales[4] = 127;
  block.scales[6] = -128;
  block.ql[64 + 32 + 17] = 0xF7;  // second half: element 32 + 17 low, element 96 + 17 high nibble
  block.qh[32 + 17] = 0x08;       // its bits 2..3 = 2
  block.scales[11] = 1;           // elements 176..191
  block.scales[15] = 4;           // elements 240..255
  const Values values = decoded(block);
  EXPECT_EQ(values[0], 0.5F * 2.0F * (5.0F - 32.0F));
  EXPECT_EQ(values[32], 0.5F * -3.0F * (28.0F - 32.0F));
  EXPECT_EQ(values[64], 0.5F * 127.0F * (42.0F - 32.0F));
  EXPECT_EQ(values[96], 0.5F * -128.0F * (51.0F - 32.0F));
  EXPECT_EQ(values[1], -32.0F);  // code 0, scale 2
  EXPECT_EQ(values[16], 0.0F);   // scale 0
  EXPECT_EQ(values[128 + 32 + 17], 0.5F * (7.0F + 32.0F - 32.0F));
  EXPECT_EQ(values[128 + 96 + 17], 0.5F * 4.0F * (15.0F - 32.0F));
}

TEST(Q6_K, EveryElementHasItsOwnPlace) {
  // With one element apart from the rest, exactly that element must come back apart.
  for (size_t i = 0; i < 256; ++i) {
    Values values;
    values.fill(-32.0F * 127.0F);  // scale 127 and d = 1: all exact
    values[i] = 31.0F * 127.0F;
    ASSERT_EQ(round_trip(values), values) << i;
  }
}

TEST(Q6_K, SmallScalesServeTinyValues) {
  // Without care d = 1e-4 / 32 / 127 would round to zero as an f16.
  testing::Random random;
  SCOPED_TRACE(random.describe());
  Values values;
  for (float& value : values) {
    value = random.uniform(-1e-4F, 1e-4F);
  }
  const Values back = round_trip(values);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(back[i], values[i], 3e-6F) << i;
  }
}

TEST(Q6_K, SaturatesWhereTheScalesEnd) {
  Values values{};
  values[0] = 3e38F;
  values[20] = -3e38F;
  const Values back = round_trip(values);
  EXPECT_EQ(back[0], 65504.0F * 127.0F * 32.0F);
  EXPECT_EQ(back[20], -65504.0F * 127.0F * 32.0F);
  EXPECT_EQ(back[1], 0.0F);
}

}  // namespace
}  // namespace sluice::quant
