// Number conversions against arithmetic in double that shares nothing with them: every code of every small
// type, every rounding boundary, and fresh random floats.
#include "quant/base/number.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "support/random_tensors.h"

namespace sluice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A binary format with the usual layout: sign, exponent, mantissa, subnormals.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias;
};

constexpr Format kF16{5, 10, 15};
constexpr Format kBF16{8, 7, 127};
constexpr Format kE4M3{4, 3, 7};

// The value of a code whose exponent has no special meaning.
double value_of(Format format, uint32_t bits) {
  const auto mantissa = static_cast<double>(bits & ((1U << format.mantissa_bits) - 1U));
  const auto exponent =
      static_cast<int>((bits >> format.mantissa_bits) & ((1U << format.exponent_bits) - 1U));
  const bool negative = ((bits >> (format.mantissa_bits + format.exponent_bits)) & 1U) != 0;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, 1 - format.bias - format.mantissa_bits)
                    : std::ldexp(1.0 + std::ldexp(mantissa, -format.mantissa_bits), exponent - format.bias);
  return negative ? -magnitude : magnitude;
}

// `value` rounded to the format's precision, ties to even, without its upper limit.
double round_to(Format format, double value) {
  if (value == 0.0) {
    return value;
  }
  const int exponent = std::max(std::ilogb(value), 1 - format.bias);
  const double unit = std::ldexp(1.0, exponent - format.mantissa_bits);
  return std::nearbyint(value / unit) * unit;
}

void expect_same_bits(float actual, double expected, uint32_t code) {
  ASSERT_EQ(std::bit_cast<uint32_t>(actual), std::bit_cast<uint32_t>(static_cast<float>(expected)))
      << "code " << code << ": " << actual << " instead of " << expected;
}

// Encodes the float halfway between each code and the next, and its two neighbours. 0 <= code < last.
template <typename Encode>
void expect_nearest_even(Format format, uint32_t last, Encode encode) {
  for (uint32_t code = 0; code < last; ++code) {
    const auto middle = static_cast<float>((value_of(format, code) + value_of(format, code + 1)) / 2.0);
    const uint32_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(encode(middle), even) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, 0.0F)), code) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, kInfinity)), code + 1) << middle;
  }
}

// Floats of every size, most of them inside the range of small formats.
std::vector<float> random_floats(testing::Random& random, int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) {
    const int exponent = static_cast<int>(random.integer(-40, 20));
    values.push_back(std::ldexp(random.uniform(-2.0F, 2.0F), exponent));
  }
  return values;
}

TEST(Number, DecodesEveryF16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    const bool negative = bits >= 0x8000;
    if ((bits & 0x7C00U) != 0x7C00U) {
      expect_same_bits(value, value_of(kF16, bits), bits);
    } else if ((bits & 0x3FFU) == 0) {
      ASSERT_EQ(value, negative ? -kInfinity : kInfinity);
    } else {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_EQ(std::signbit(value), negative) << bits;
    }
  }
}

TEST(Number, EncodesEveryF16Back) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t back = f32_to_f16(f16_to_f32(static_cast<uint16_t>(bits)));
    const bool nan = (bits & 0x7FFFU) > 0x7C00U;
    ASSERT_EQ(back, nan ? bits | 0x200U : bits);  // a NaN comes back quiet
  }
}

TEST(Number, RoundsF16AtEveryBoundary) {
  expect_nearest_even(kF16, 0x7BFF, f32_to_f16);
  EXPECT_EQ(f32_to_f16(std::nextafter(65520.0F, 0.0F)), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(1e30F), 0x7C00);
  EXPECT_EQ(f32_to_f16(-1e30F), 0xFC00);
  EXPECT_EQ(f32_to_f16(-kInfinity), 0xFC00);
  EXPECT_EQ(f32_to_f16(-1e-30F), 0x8000);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0x0000);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(kNaN))));
  // A NaN whose payload lies in the dropped bits must not turn into infinity.
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::bit_cast<float>(0x7F800001U)))));
}

TEST(Number, DecodesEveryBF16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_to_f32(static_cast<uint16_t>(bits));
    if ((bits & 0x7F80U) != 0x7F80U) {
      expect_same_bits(value, value_of(kBF16, bits), bits);
      ASSERT_EQ(f32_to_bf16(value), bits);
    } else if ((bits & 0x7FU) == 0) {
      ASSERT_EQ(value, bits >= 0x8000 ? -kInfinity : kInfinity);
      ASSERT_EQ(f32_to_bf16(value), bits);
    } else {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value)))) << bits;
    }
  }
}

TEST(Number, RoundsBF16AtEveryBoundary) {
  expect_nearest_even(kBF16, 0x7F7F, f32_to_bf16);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001U)))));
}

TEST(Number, DecodesEveryE4M3) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(bits));
    if ((bits & 0x7FU) == 0x7FU) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else {
      expect_same_bits(value, value_of(kE4M3, bits), bits);
      ASSERT_EQ(f32_to_e4m3(value), bits);
    }
  }
}

TEST(Number, E4M3Edges) {
  EXPECT_EQ(std::bit_cast<uint32_t>(e4m3_to_f32(0x00)), 0U);
  EXPECT_TRUE(std::signbit(e4m3_to_f32(0x80)));
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9F);
  EXPECT_EQ(e4m3_to_f32(0x07), 7 * 0x1p-9F);
  EXPECT_EQ(e4m3_to_f32(0x08), 0x1p-6F);
  EXPECT_EQ(e4m3_to_f32(0x38), 1.0F);
  EXPECT_EQ(e4m3_to_f32(0x7E), 448.0F);
  EXPECT_EQ(e4m3_to_f32(0xFE), -448.0F);
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0xFF)));
}

TEST(Number, RoundsE4M3AtEveryBoundaryAndSaturates) {
  expect_nearest_even(kE4M3, 0x7E, f32_to_e4m3);
  EXPECT_EQ(f32_to_e4m3(449.0F), 0x7E);
  EXPECT_EQ(f32_to_e4m3(480.0F), 0x7E);
  EXPECT_EQ(f32_to_e4m3(kInfinity), 0x7E);
  EXPECT_EQ(f32_to_e4m3(-kInfinity), 0xFE);
  EXPECT_EQ(f32_to_e4m3(0x1p-10F), 0x00);  // a tie between 0 and the smallest
  EXPECT_EQ(f32_to_e4m3(-0x1p-11F), 0x80);
  EXPECT_EQ(f32_to_e4m3(kNaN) & 0x7F, 0x7F);
}

TEST(Number, RandomFloatsRoundAsInDouble) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const float value : random_floats(random, 200'000)) {
    const auto exact = static_cast<double>(value);
    const double f16 = round_to(kF16, exact);
    ASSERT_EQ(f16_to_f32(f32_to_f16(value)), std::fabs(f16) > 65504.0 ? std::copysign(kInfinity, value) : f16)
        << value;
    ASSERT_EQ(bf16_to_f32(f32_to_bf16(value)), round_to(kBF16, exact)) << value;
    const double e4m3 = std::min(std::fabs(round_to(kE4M3, exact)), 448.0);
    ASSERT_EQ(e4m3_to_f32(f32_to_e4m3(value)), std::copysign(e4m3, exact)) << value;
  }
}

TEST(Number, E8M0IsAPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    ASSERT_EQ(e8m0_to_f32(static_cast<uint8_t>(bits)), std::ldexp(1.0, bits - 127)) << bits;
  }
  EXPECT_TRUE(std::isnan(e8m0_to_f32(0xFF)));
}

TEST(Number, E2M1TableIsTheSpecifiedOneDoubled) {
  const double expected[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (size_t code = 0; code < 8; ++code) {
    EXPECT_EQ(kE2m1Doubled[code], 2.0 * expected[code]);
    EXPECT_EQ(kE2m1Doubled[code + 8], -2.0 * expected[code]);
  }
}

}  // namespace
}  // namespace sluice
