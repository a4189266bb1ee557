// YaRN's table and the two layouts of the rotation, against the vectors of the model specification (2.3).
#include "kernels_cpu/rope.h"

#include <cmath>
#include <utility>

#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

constexpr cpu::YarnParams kDeepSeek{
    .dims = 64, .freq_base = 10000.0F, .factor = 40.0F, .original_context = 4096};

// clang-format off
const std::vector<double> kDeepSeekFrequencies = {
    1.000000000e+00, 7.498942093e-01, 5.623413252e-01, 4.216965034e-01, 3.162277660e-01, 2.371373706e-01,
    1.778279410e-01, 1.333521432e-01, 1.000000000e-01, 7.498942093e-02, 5.623413252e-02, 3.900692657e-02,
    2.687936011e-02, 1.837814622e-02, 1.244795587e-02, 8.334508951e-03, 5.500000000e-03, 3.561997494e-03,
    2.249365301e-03, 1.370513636e-03, 7.905694150e-04, 4.149903985e-04, 1.778279410e-04, 3.333803580e-05,
    2.500000000e-05, 1.874735523e-05, 1.405853313e-05, 1.054241259e-05, 7.905694150e-06, 5.928434264e-06,
    4.445698525e-06, 3.333803580e-06};
// clang-format on

/// x[n] = (n + 1) / 64 rotated at position 5000.
template <typename Rotate>
std::vector<float> rotated_at_5000(const Rotate& rotate) {
  std::vector<float> cos_sin(64);
  cpu::rope_angles(cpu::yarn_frequencies(kDeepSeek), 5000, cos_sin);
  std::vector<float> x(64);
  for (size_t n = 0; n < x.size(); ++n) {
    x[n] = static_cast<float>(n + 1) / 64.0F;
  }
  rotate(cos_sin, x);
  return x;
}

// At the angles below 300 rad, the roundings of w and of the product 5000 * w are 4e-5 rad together
// (components 0 and 1 have w = 1, exact); the vectors are printed to six digits.
constexpr double kVectorTolerance = 4e-5;

TEST(Rope, YarnTableOfDeepSeek) {
  EXPECT_TRUE(close(cpu::yarn_frequencies(kDeepSeek), kDeepSeekFrequencies, kRounding + 1e-9, 0.0));
}

TEST(Rope, FactorOneIsPlain) {
  std::vector<double> plain(32);
  for (size_t i = 0; i < plain.size(); ++i) {
    plain[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / 64.0);
  }
  EXPECT_TRUE(close(cpu::yarn_frequencies({.dims = 64, .factor = 1.0F}), plain, kRounding, 0.0));
}

TEST(Rope, OtherDimensionsMoveTheRamp) {
  // 16 dimensions, base 100, 64 positions: corr(r) = 16 ln(64 / 2 pi r) / (2 ln 100); corr(4) = 1.62, corr(1)
  // = 4.03.
  const cpu::YarnParams params{.dims = 16,
                               .freq_base = 100.0F,
                               .factor = 4.0F,
                               .original_context = 64,
                               .beta_fast = 4.0F,
                               .beta_slow = 1.0F};
  std::vector<double> expected;
  for (int i = 0; i < 8; ++i) {
    const double f = std::pow(100.0, -i / 8.0);
    const double ramp = std::min(1.0, std::max(0.0, (i - 1) / 4.0));
    expected.push_back(f * (1 - ramp) + f / 4 * ramp);
  }
  EXPECT_TRUE(close(cpu::yarn_frequencies(params), expected, kRounding, 0.0));
}

TEST(Rope, InterleavedVector) {
  const std::vector<float> y = rotated_at_5000(cpu::rope_interleaved);
  const std::vector<std::pair<size_t, double>> expected = {{0, 0.033291},   {1, -0.010604},  {20, 0.343133},
                                                           {21, -0.328771}, {24, -0.559969}, {25, -0.063729},
                                                           {62, 0.967570},  {63, 1.016269}};
  for (const auto& [n, value] : expected) {
    EXPECT_NEAR(static_cast<double>(y[n]), value, kVectorTolerance) << n;
  }
}

TEST(Rope, HalfSplitVector) {
  const std::vector<float> y = rotated_at_5000(cpu::rope_half_split);
  const std::vector<std::pair<size_t, double>> expected = {{0, 0.511837},   {32, 0.064314},  {10, 0.671551},
                                                           {42, -0.173138}, {12, -0.604919}, {44, -0.411968},
                                                           {31, 0.483262},  {63, 1.008195}};
  for (const auto& [n, value] : expected) {
    EXPECT_NEAR(static_cast<double>(y[n]), value, kVectorTolerance) << n;
  }
}

TEST(Rope, PositionZeroIsTheIdentity) {
  Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<float> x = random.normal(64);
  std::vector<float> cos_sin(64);
  cpu::rope_angles(cpu::yarn_frequencies(kDeepSeek), 0, cos_sin);
  std::vector<float> y = x;
  cpu::rope_interleaved(cos_sin, y);
  EXPECT_TRUE(close(y, x, 0.0, 0.0));
  cpu::rope_half_split(cos_sin, y);
  EXPECT_TRUE(close(y, x, 0.0, 0.0));
}

/// The largest position: the angle is the float product, and its cosine and sine are those of that float.
TEST(Rope, AnglesAreAccurateFunctionsOfTheFloatProduct) {
  const std::vector<float> w = cpu::yarn_frequencies(kDeepSeek);
  for (const int64_t position : {1, 4095, 131071, 163839}) {
    std::vector<float> cos_sin(64);
    cpu::rope_angles(w, position, cos_sin);
    std::vector<double> expected(64);
    for (size_t i = 0; i < 32; ++i) {
      const float product = static_cast<float>(position) * w[i];
      expected[i] = std::cos(static_cast<double>(product));
      expected[32 + i] = std::sin(static_cast<double>(product));
    }
    EXPECT_TRUE(close(cos_sin, expected, kRounding, 0.0)) << position;
  }
}

/// The product of a rotated query and key depends on the distance alone, in each layout; mixing layouts
/// breaks it.
TEST(Rope, ProductsDependOnTheDistanceOnly) {
  Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<float> w = cpu::yarn_frequencies(kDeepSeek);
  const std::vector<float> q = random.normal(64);
  const std::vector<float> k = random.normal(64);
  const auto product = [&](int64_t p, int64_t j, const auto& rotate_q, const auto& rotate_k) {
    std::vector<float> cos_sin(64);
    std::vector<float> a = q;
    std::vector<float> b = k;
    cpu::rope_angles(w, p, cos_sin);
    rotate_q(cos_sin, a);
    cpu::rope_angles(w, j, cos_sin);
    rotate_k(cos_sin, b);
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
      sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return sum;
  };
  EXPECT_NEAR(product(137, 100, cpu::rope_interleaved, cpu::rope_interleaved),
              product(1037, 1000, cpu::rope_interleaved, cpu::rope_interleaved), 1e-2);
  EXPECT_NEAR(product(137, 100, cpu::rope_half_split, cpu::rope_half_split),
              product(1037, 1000, cpu::rope_half_split, cpu::rope_half_split), 1e-2);
  EXPECT_GT(std::abs(product(137, 100, cpu::rope_interleaved, cpu::rope_half_split) -
                     product(1037, 1000, cpu::rope_interleaved, cpu::rope_half_split)),
            1e-2);
}

class RopeKernels : public EveryIsa {};

TEST_P(RopeKernels, GiveTheBitsOfTheLoops) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t pairs : {1, 3, 4, 7, 8, 9, 16, 17, 32, 50}) {
    const std::vector<float> cos_sin = random_.normal(2 * pairs);
    const std::vector<float> x = random_.normal(2 * pairs + 1);  // the last one is a guard
    const auto body = [pairs](std::vector<float>& y) {
      return std::span(y).first(static_cast<size_t>(2 * pairs));
    };
    std::vector<float> expected = x;
    std::vector<float> actual = x;
    cpu::rope_interleaved(cos_sin, body(expected));
    kernels_.rope_interleaved(cos_sin.data(), pairs, actual.data());
    EXPECT_TRUE(identical(actual, expected)) << pairs;
    cpu::rope_half_split(cos_sin, body(expected));
    kernels_.rope_half_split(cos_sin.data(), pairs, actual.data());
    EXPECT_TRUE(identical(actual, expected)) << pairs;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RopeKernels, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
