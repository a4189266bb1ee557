// Norms, SwiGLU, scaling, bf16 rounding and the indexer's reduction against double precision.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "quant/base/number.h"
#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

const std::vector<int64_t> kLengths = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 128, 512, 1536, 7168};

std::vector<float> empty(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n));
}

class Elementwise : public EveryIsa {};

TEST_P(Elementwise, RmsNorm) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : kLengths) {
    for (const float magnitude : {1.0F, 1e-18F, 1e-4F, 1e15F}) {
      const std::vector<float> x = random_.normal(n, magnitude);
      const std::vector<float> gain = random_.normal(n);
      std::vector<double> expected;
      double squares = 0.0;
      for (const float v : x) {
        squares += static_cast<double>(v) * static_cast<double>(v);
      }
      const double rms = std::sqrt(squares / static_cast<double>(n) + static_cast<double>(1e-6F));
      for (size_t i = 0; i < x.size(); ++i) {
        expected.push_back(static_cast<double>(gain[i]) * static_cast<double>(x[i]) / rms);
      }
      std::vector<float> y = empty(n);
      kernels_.rms_norm(x.data(), gain.data(), 1e-6F, n, y.data());
      // The sum of n squares is off by n + 1 roundings at most, its root by half of that, six more follow.
      EXPECT_TRUE(close(y, expected, (static_cast<double>(n) / 2 + 7) * kRounding, 1e-42)) << n;
      std::vector<float> in_place = x;
      kernels_.rms_norm(in_place.data(), gain.data(), 1e-6F, n, in_place.data());
      EXPECT_TRUE(identical(in_place, y));
    }
  }
}

TEST_P(Elementwise, RmsNormOfZerosIsZero) {
  const std::vector<float> x(33, -0.0F);
  const std::vector<float> gain(33, 2.0F);
  std::vector<float> y(33, 1.0F);
  kernels_.rms_norm(x.data(), gain.data(), 1e-6F, 33, y.data());
  EXPECT_TRUE(close(y, x, 0.0, 0.0));
}

TEST_P(Elementwise, LayerNorm) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : kLengths) {
    for (const float offset : {0.0F, 3.0F, -100.0F}) {
      std::vector<float> x = random_.normal(n);
      std::ranges::for_each(x, [offset](float& v) { v += offset; });
      const std::vector<float> gain = random_.normal(n);
      const std::vector<float> bias = random_.normal(n);
      const std::vector<double> wide = to_double(x);
      const auto count = static_cast<double>(n);
      const double mean = std::accumulate(wide.begin(), wide.end(), 0.0) / count;
      double variance = 0.0;
      double magnitude = 0.0;
      for (const double v : wide) {
        variance += (v - mean) * (v - mean) / count;
        magnitude += std::abs(v) / count;
      }
      const double deviation = std::sqrt(variance + static_cast<double>(1e-6F));
      // n + 1 roundings in the mean; it shifts every value, and the variance by its square.
      const double mean_error = (count + 1) * kRounding * magnitude;
      const double relative = (count / 2 + 10) * kRounding +
                              mean_error * (mean_error + 2 * kRounding * magnitude) / (deviation * deviation);
      std::vector<double> expected;
      std::vector<double> allowed;
      for (size_t i = 0; i < x.size(); ++i) {
        const double normed = (wide[i] - mean) / deviation;
        const auto g = static_cast<double>(gain[i]);
        expected.push_back(g * normed + static_cast<double>(bias[i]));
        allowed.push_back(std::abs(g) * (std::abs(normed) * relative +
                                         (mean_error + kRounding * std::abs(wide[i])) / deviation) +
                          4 * kRounding * (std::abs(expected[i]) + std::abs(static_cast<double>(bias[i]))));
      }
      std::vector<float> y = empty(n);
      kernels_.layer_norm(x.data(), gain.data(), bias.data(), 1e-6F, n, y.data());
      EXPECT_TRUE(within(y, expected, allowed)) << n << " offset " << offset;
      kernels_.layer_norm(x.data(), gain.data(), bias.data(), 1e-6F, n, x.data());
      EXPECT_TRUE(identical(x, y));
    }
  }
}

TEST_P(Elementwise, SwigluOverTheWholeRange) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> gate = random_.normal(2000, 5.0F);
  for (float z = -130.0F; z < 130.0F; z += 0.37F) {
    gate.push_back(z);
  }
  gate.insert(gate.end(),
              {0.0F, -0.0F, 1e-45F, -1e-39F, 1e30F, -1e30F, 3e37F, -3e37F, 88.72F, -88.72F, 88.8F, -88.8F});
  const auto n = static_cast<int64_t>(gate.size());
  const std::vector<float> up = random_.normal(n);
  std::vector<double> expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    const auto z = static_cast<double>(gate[i]);
    expected.push_back(z / (1.0 + std::exp(-z)) * static_cast<double>(up[i]));
  }
  std::vector<float> out = empty(n);
  kernels_.swiglu(gate.data(), up.data(), n, out.data());
  // Below -88.7 exp(-z) overflows and the result becomes 0 instead of less than 1e-36.
  EXPECT_TRUE(close(out, expected, 8 * kRounding, 1e-35));
  std::vector<float> in_place = up;
  kernels_.swiglu(gate.data(), in_place.data(), n, in_place.data());
  EXPECT_TRUE(identical(in_place, out));
  in_place = gate;
  kernels_.swiglu(in_place.data(), up.data(), n, in_place.data());
  EXPECT_TRUE(identical(in_place, out));
}

TEST_P(Elementwise, AddScaledAndScale) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : kLengths) {
    const std::vector<float> x = random_.normal(n);
    const std::vector<float> y = random_.normal(n);
    const float factor = random_.uniform(-3.0F, 3.0F);
    std::vector<double> sum;
    std::vector<double> allowed;
    std::vector<double> product;
    sum.reserve(x.size());
    allowed.reserve(x.size());
    product.reserve(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double addend = static_cast<double>(factor) * static_cast<double>(x[i]);
      sum.push_back(static_cast<double>(y[i]) + addend);
      allowed.push_back(2 * kRounding * (std::abs(addend) + std::abs(static_cast<double>(y[i]))));
      product.push_back(static_cast<double>(factor) * static_cast<double>(y[i]));
    }
    std::vector<float> actual = y;
    kernels_.add_scaled(x.data(), factor, n, actual.data());
    EXPECT_TRUE(within(actual, sum, allowed)) << n;
    actual = y;
    kernels_.scale(factor, n, actual.data());
    EXPECT_TRUE(close(actual, product, kRounding, 1e-45)) << n;
  }
}

/// The value of an element does not depend on where it stands and how long the row is.
TEST_P(Elementwise, ElementsDoNotDependOnTheirPlace) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> x = random_.normal(101, 4.0F);
  const std::vector<float> y = random_.normal(101);
  std::vector<float> swiglu = empty(101);
  kernels_.swiglu(x.data(), y.data(), 101, swiglu.data());
  std::vector<float> added = y;
  kernels_.add_scaled(x.data(), 0.3F, 101, added.data());
  for (size_t begin = 0; begin < x.size(); ++begin) {
    const int64_t n = random_.integer(1, static_cast<int64_t>(x.size() - begin));
    const auto count = static_cast<size_t>(n);
    std::vector<float> part = empty(n);
    kernels_.swiglu(x.data() + begin, y.data() + begin, n, part.data());
    ASSERT_TRUE(identical(part, std::span(swiglu).subspan(begin, count))) << begin << "+" << n;
    std::copy_n(y.begin() + static_cast<int64_t>(begin), n, part.begin());
    kernels_.add_scaled(x.data() + begin, 0.3F, n, part.data());
    ASSERT_TRUE(identical(part, std::span(added).subspan(begin, count))) << begin << "+" << n;
  }
}

TEST_P(Elementwise, ToBf16RoundsToNearestEven) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> x;
  x.reserve(6000);
  for (int i = 0; i < 5000; ++i) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(random_.integer(0, 0xFFFFFFFF))));
  }
  for (const uint32_t bits :
       {0U, 0x80000000U, 0x3F808000U, 0x3F818000U, 0x3F808001U, 0x7F7FFFFFU, 0x7F800000U, 0xFF800000U,
        0x7F800001U, 0xFFFFFFFFU, 0x00000001U, 0x00008000U, 0x00018000U}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  std::vector<uint16_t> y(x.size() + 1, 0xABCD);
  kernels_.to_bf16(x.data(), static_cast<int64_t>(x.size()), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y[i], f32_to_bf16(x[i])) << std::hex << std::bit_cast<uint32_t>(x[i]);
  }
  EXPECT_EQ(y.back(), 0xABCD);
  for (int64_t n = 0; n < 40; ++n) {
    std::ranges::fill(y, uint16_t{0xABCD});
    kernels_.to_bf16(x.data(), n, y.data());
    EXPECT_EQ(y[static_cast<size_t>(n)], 0xABCD);
  }
}

TEST_P(Elementwise, IndexReduce) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t heads : {1, 3, 64}) {
    for (const int64_t n : {1, 7, 16, 33, 100}) {
      const int64_t stride = heads + random_.integer(0, 5);
      const std::vector<float> products = random_.normal(n * stride);
      const std::vector<float> weights = random_.normal(heads);
      std::vector<double> expected(static_cast<size_t>(n), 0.0);
      std::vector<double> allowed(static_cast<size_t>(n), 0.0);
      for (size_t j = 0; j < expected.size(); ++j) {
        for (int64_t h = 0; h < heads; ++h) {
          const double product = std::max(
              0.0, static_cast<double>(products[j * static_cast<size_t>(stride) + static_cast<size_t>(h)]));
          const double term = static_cast<double>(weights[static_cast<size_t>(h)]) * product;
          expected[j] += term;
          allowed[j] += static_cast<double>(heads + 2) * kRounding * std::abs(term);
        }
      }
      std::vector<float> scores = empty(n);
      kernels_.index_reduce(products.data(), stride, weights.data(), heads, n, scores.data());
      EXPECT_TRUE(within(scores, expected, allowed)) << heads << " heads, " << n;
    }
  }
}

TEST_P(Elementwise, IndexReduceOfNegativeProductsIsZero) {
  const std::vector<float> products(60, -4.0F);
  const std::vector<float> weights = {1.0F, -2.0F, 3.0F};
  std::vector<float> scores(20, 9.0F);
  kernels_.index_reduce(products.data(), 3, weights.data(), 3, 20, scores.data());
  EXPECT_TRUE(close(scores, std::vector<float>(20, 0.0F), 0.0, 0.0));
}

INSTANTIATE_TEST_SUITE_P(Isa, Elementwise, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
