// MXFP4: blocks built by hand, scales at both ends of their range, and the encoder's choice of exponent.
#include "quant/mxfp4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "support/random_tensors.h"
#include "support/relative_error.h"

namespace sluice::quant {
namespace {

using Values = std::array<float, 32>;

Values decoded(const BlockMXFP4& block) {
  Values values;
  dequantize(block, values);
  return values;
}

Values round_trip(const Values& values) {
  BlockMXFP4 block;
  quantize(values, block);
  return decoded(block);
}

TEST(MXFP4, DecodesByHand) {
  BlockMXFP4 block{.e = 127, .qs = {}};  // e8m0 1.0: the e2m1 values themselves
  for (uint8_t j = 0; j < 16; ++j) {
    block.qs[j] = static_cast<uint8_t>(j | (15 - j) << 4);  // element j: code j; element j + 16: code 15 - j
  }
  const float e2m1[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6};
  const Values values = decoded(block);
  for (size_t j = 0; j < 16; ++j) {
    EXPECT_EQ(values[j], e2m1[j]) << j;
    EXPECT_EQ(values[j + 16], e2m1[15 - j]) << j;
  }
}

TEST(MXFP4, EveryScaleIsItsPowerOfTwo) {
  for (int e = 0; e < 256; ++e) {
    ASSERT_EQ(static_cast<double>(mxfp4_scale(static_cast<uint8_t>(e))), std::ldexp(1.0, e - 128)) << e;
  }
  const BlockMXFP4 smallest{.e = 0, .qs = {0x91}};  // codes 1 and 9: +-1 in doubled units
  EXPECT_EQ(decoded(smallest)[0], 0x1p-128F);
  EXPECT_EQ(decoded(smallest)[16], -0x1p-128F);
}

TEST(MXFP4, EncoderFindsTheBestOfAllScales) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 500; ++trial) {
    Values values;
    const std::vector<float> fresh = random.normal(32, random.uniform(0.01F, 10.0F));
    std::copy(fresh.begin(), fresh.end(), values.begin());
    const double error = testing::relative_rms(values, round_trip(values));
    for (uint8_t e = 110; e < 140; ++e) {
      Values other;
      for (size_t i = 0; i < values.size(); ++i) {
        // The nearest of the sixteen values, by looking at all of them.
        other[i] = 0.0F;
        for (const float unit :
             {1.0F, 2.0F, 3.0F, 4.0F, 6.0F, 8.0F, 12.0F, -1.0F, -2.0F, -3.0F, -4.0F, -6.0F, -8.0F, -12.0F}) {
          const float candidate = unit * mxfp4_scale(e);
          if (std::fabs(values[i] - candidate) < std::fabs(values[i] - other[i])) {
            other[i] = candidate;
          }
        }
      }
      ASSERT_LE(error, testing::relative_rms(values, other) * 1.00001) << int{e};
    }
  }
}

TEST(MXFP4, EndsOfTheRange) {
  Values values{};
  values[0] = 3.4e38F;
  values[1] = -1e38F;
  Values back = round_trip(values);
  EXPECT_EQ(back[0], 12 * 0x1p124F);  // the largest that stays finite
  EXPECT_LT(std::fabs(back[1] / values[1] - 1.0F), 0.34F);
  values = {};
  values[0] = 6 * 0x1p-127F;
  values[1] = -0x1p-128F;
  back = round_trip(values);
  EXPECT_EQ(back[0], values[0]);
  EXPECT_EQ(back[1], values[1]);
}

}  // namespace
}  // namespace sluice::quant
