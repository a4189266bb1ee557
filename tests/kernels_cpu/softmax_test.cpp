// The running softmax: its exponential, its independence of the tiling, scores at the edge of the range.
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

cpu::SoftmaxTile first_tile(std::span<float> scores, float scale) {
  return {.scores = scores.data(),
          .n = static_cast<int64_t>(scores.size()),
          .scale = scale,
          .running_max = kLowest,
          .running_sum = 0.0F,
          .rescale = 99.0F};
}

class Softmax : public EveryIsa {
 protected:
  /// Probabilities of all scores, computed in tiles of the given lengths.
  std::vector<float> probabilities(std::vector<float> scores, float scale,
                                   const std::vector<int64_t>& lengths) {
    cpu::SoftmaxTile tile = first_tile(scores, scale);
    size_t begin = 0;
    for (const int64_t n : lengths) {
      tile.scores = scores.data() + begin;
      tile.n = n;
      kernels_.softmax_tile(tile);
      for (size_t i = 0; i < begin; ++i) {
        scores[i] *= tile.rescale;
      }
      begin += static_cast<size_t>(n);
    }
    std::ranges::for_each(scores, [&tile](float& weight) { weight /= tile.running_sum; });
    return scores;
  }
};

std::vector<double> exact_probabilities(std::span<const float> scores, float scale) {
  std::vector<double> weights;
  double largest = -std::numeric_limits<double>::infinity();
  for (const float score : scores) {
    largest = std::max(largest, static_cast<double>(scale) * static_cast<double>(score));
  }
  double sum = 0.0;
  for (const float score : scores) {
    weights.push_back(std::exp(static_cast<double>(scale) * static_cast<double>(score) - largest));
    sum += weights.back();
  }
  std::ranges::for_each(weights, [sum](double& weight) { weight /= sum; });
  return weights;
}

TEST_P(Softmax, ExponentialIsAccurateToTwoUnits) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> x = {0.0F, -0.0F, -1e-30F, -1e-7F, -87.3F, -87.4F, -88.0F, -103.2F};
  for (int i = 0; i < 20000; ++i) {
    x.push_back(random_.uniform(-104.0F, 0.0F));
    x.push_back(random_.uniform(-1.0F, 0.0F));
  }
  std::vector<double> expected;
  expected.reserve(x.size());
  for (const float v : x) {
    expected.push_back(std::exp(static_cast<double>(v)));
  }
  cpu::SoftmaxTile tile = first_tile(x, 1.0F);
  kernels_.softmax_tile(tile);
  // Two units in the last place; below the normal range a unit is one subnormal step.
  EXPECT_TRUE(close(x, expected, 4 * kRounding, 2.0 * double{std::numeric_limits<float>::denorm_min()}));
  EXPECT_EQ(x[0], 1.0F);
  EXPECT_EQ(tile.running_max, 0.0F);
  EXPECT_EQ(tile.rescale, 0.0F);
}

TEST_P(Softmax, FarBelowTheMaximumIsZero) {
  std::vector<float> x = {0.0F, -105.0F, -1000.0F, -1e30F, -3.4e38F, kLowest};
  cpu::SoftmaxTile tile = first_tile(x, 1.0F);
  kernels_.softmax_tile(tile);
  EXPECT_TRUE(identical(x, std::vector<float>{1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}));
  EXPECT_EQ(tile.running_sum, 1.0F);
}

TEST_P(Softmax, OnlyMaskedScoresLeaveTheSumAtZero) {
  std::vector<float> x(19, kLowest);
  cpu::SoftmaxTile tile = first_tile(x, 0.5F);
  kernels_.softmax_tile(tile);
  EXPECT_TRUE(identical(x, std::vector<float>(19, 0.0F)));
  EXPECT_EQ(tile.running_sum, 0.0F);
  EXPECT_EQ(tile.running_max, kLowest);
  // A later tile starts as if there had been none.
  std::vector<float> y = {2.0F, 2.0F};
  tile.scores = y.data();
  tile.n = 2;
  kernels_.softmax_tile(tile);
  EXPECT_EQ(tile.rescale, 0.0F);
  EXPECT_EQ(tile.running_sum, 2.0F);
}

TEST_P(Softmax, EqualMaximaDoNotRescale) {
  std::vector<float> x = {1.5F, 0.25F};
  cpu::SoftmaxTile tile = first_tile(x, 0.1352F);
  kernels_.softmax_tile(tile);
  std::vector<float> y = {1.0F, 1.5F, -3.0F};
  tile.scores = y.data();
  tile.n = 3;
  kernels_.softmax_tile(tile);
  EXPECT_EQ(tile.rescale, 1.0F);
}

TEST_P(Softmax, DoesNotDependOnTheLayoutOfTiles) {
  SCOPED_TRACE(random_.describe());
  for (const float magnitude : {0.1F, 10.0F, 300.0F}) {
    const std::vector<float> scores = random_.normal(97, magnitude);
    const float scale = 0.1352337789F;
    const std::vector<double> expected = exact_probabilities(scores, scale);
    // An exponent x is off by a rounding of the product and one of the difference, up to 2 |x| units
    // together.
    const double relative = (4.0 * static_cast<double>(magnitude * 5.0F * scale) + 120.0) * kRounding;
    for (const std::vector<int64_t>& tiles : std::vector<std::vector<int64_t>>{
             {97}, {1, 96}, {32, 32, 32, 1}, {16, 16, 16, 16, 16, 17}, {5, 31, 7, 33, 21}}) {
      EXPECT_TRUE(close(probabilities(scores, scale, tiles), expected, relative, 1e-38))
          << tiles.size() << " tiles";
    }
    const std::vector<int64_t> singles(97, 1);
    EXPECT_TRUE(close(probabilities(scores, scale, singles), expected, relative * 10, 1e-38));
  }
}

TEST_P(Softmax, HugeScoresStayFinite) {
  const std::vector<float> result = probabilities({3e38F, -3e38F, 3e38F, 0.0F}, 0.5F, {1, 3});
  EXPECT_TRUE(close(result, std::vector<double>{0.5, 0.0, 0.5, 0.0}, 0.0, 0.0));
}

INSTANTIATE_TEST_SUITE_P(Isa, Softmax, ::testing::ValuesIn(cpu::supported_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
