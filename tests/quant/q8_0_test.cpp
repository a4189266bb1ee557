// Q8_0: blocks built by hand, and an encoder compared with the plain one (largest magnitude to 127).
#include "quant/q8_0.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/number.h"
#include "support/random_tensors.h"
#include "support/relative_error.h"

namespace sluice::quant {
namespace {

using Values = std::array<float, 32>;

Values decoded(const BlockQ8_0& block) {
  Values values;
  dequantize(block, values);
  return values;
}

Values round_trip(const Values& values) {
  BlockQ8_0 block;
  quantize(values, block);
  return decoded(block);
}

Values plain_round_trip(const Values& values) {
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  const float d = f16_to_f32(f32_to_f16(largest / 127.0F));
  Values result;
  for (size_t i = 0; i < values.size(); ++i) {
    result[i] = d * std::clamp(std::nearbyint(values[i] / d), -127.0F, 127.0F);
  }
  return result;
}

TEST(Q8_0, DecodesByHand) {
  BlockQ8_0 block{.d = 0x3800, .q = {}};  // 0.5
  block.q[0] = -128;
  block.q[1] = 127;
  block.q[2] = -1;
  block.q[31] = 3;
  const Values values = decoded(block);
  EXPECT_EQ(values[0], -64.0F);
  EXPECT_EQ(values[1], 63.5F);
  EXPECT_EQ(values[2], -0.5F);
  EXPECT_EQ(values[3], 0.0F);
  EXPECT_EQ(values[31], 1.5F);
}

TEST(Q8_0, DecodesNegativeAndSubnormalScales) {
  BlockQ8_0 block{.d = 0xB400, .q = {5, -6}};  // -0.25
  EXPECT_EQ(decoded(block)[0], -1.25F);
  EXPECT_EQ(decoded(block)[1], 1.5F);
  block.d = 0x0001;  // 2^-24
  EXPECT_EQ(decoded(block)[1], -6 * 0x1p-24F);
}

TEST(Q8_0, NeverWorseThanThePlainEncoder) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 2000; ++trial) {
    Values values;
    const std::vector<float> fresh = random.normal(32, random.uniform(0.01F, 10.0F));
    std::copy(fresh.begin(), fresh.end(), values.begin());
    ASSERT_LE(testing::relative_rms(values, round_trip(values)),
              testing::relative_rms(values, plain_round_trip(values)) * 1.00001);
  }
}

TEST(Q8_0, KeepsAnOutlierWithinHalfAStep) {
  Values values{};
  values.fill(0.001F);
  values[7] = -100.0F;
  const Values back = round_trip(values);
  EXPECT_NEAR(back[7], -100.0F, 100.0F / 254.0F);
  EXPECT_EQ(back[6], 0.0F);
}

TEST(Q8_0, SaturatesWhereTheScaleEnds) {
  Values values{};
  values[0] = 3e38F;
  values[1] = -3e38F;
  values[2] = 65504.0F;
  const Values back = round_trip(values);
  EXPECT_EQ(back[0], 65504.0F * 127.0F);
  EXPECT_EQ(back[1], -65504.0F * 127.0F);
  EXPECT_EQ(back[2], 65504.0F);
}

TEST(Q8_0, SmallestScaleServesTinyValues) {
  Values values{};
  values[0] = 178 * 0x1p-24F;  // 178 / 127 lies between the two smallest scales: the larger must be taken
  values[1] = -0x1p-23F;
  EXPECT_EQ(round_trip(values), values);
  values.fill(1e-40F);
  EXPECT_EQ(round_trip(values), Values{});
}

}  // namespace
}  // namespace sluice::quant
