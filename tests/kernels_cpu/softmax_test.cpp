// The running softmax: its exponential, its independence of the tiling, scores at the edge of the range.
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

constexpr float kGuard = 55.0F;

/// The running softmax of one head that stands among others, at a random place in the tile's rows.
class OneHead {
 public:
  OneHead(const cpu::Kernels& kernels, Random& random, float scale)
      : kernels_(kernels), random_(random), scale_(scale), heads_(random.integer(1, 40)) {
    head_ = random.integer(0, heads_ - 1);
    const auto n = static_cast<size_t>(heads_);
    max_.assign(n, kLowest);
    sum_.assign(n, 0.0F);
    rescale_.assign(n, 99.0F);
  }

  /// scores <- weights
  void add(std::span<float> scores) {
    const auto n = static_cast<int64_t>(scores.size());
    const int64_t stride = heads_ + 3;
    std::vector<float> tile = random_.normal(n * stride);
    for (int64_t j = 0; j < n; ++j) {
      tile[at(j * stride + head_)] = scores[at(j)];
      tile[at(j * stride + heads_)] = kGuard;
    }
    kernels_.softmax_tile({.scores = tile.data(),
                           .stride = stride,
                           .n = n,
                           .heads = heads_,
                           .scale = scale_,
                           .running_max = max_.data(),
                           .running_sum = sum_.data(),
                           .rescale = rescale_.data()});
    for (int64_t j = 0; j < n; ++j) {
      scores[at(j)] = tile[at(j * stride + head_)];
      EXPECT_EQ(tile[at(j * stride + heads_)], kGuard) << heads_ << " heads";
    }
  }

  [[nodiscard]] float max() const { return max_[at(head_)]; }
  [[nodiscard]] float sum() const { return sum_[at(head_)]; }
  [[nodiscard]] float rescale() const { return rescale_[at(head_)]; }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  const cpu::Kernels& kernels_;
  Random& random_;
  float scale_;
  int64_t heads_;
  int64_t head_ = 0;
  std::vector<float> max_;
  std::vector<float> sum_;
  std::vector<float> rescale_;
};

class Softmax : public EveryIsa {
 protected:
  OneHead head(float scale) { return {kernels_, random_, scale}; }

  /// Probabilities of all scores, computed in tiles of the given lengths.
  std::vector<float> probabilities(std::vector<float> scores, float scale,
                                   const std::vector<int64_t>& lengths) {
    OneHead running = head(scale);
    size_t begin = 0;
    for (const int64_t n : lengths) {
      running.add(std::span(scores).subspan(begin, static_cast<size_t>(n)));
      for (size_t i = 0; i < begin; ++i) {
        scores[i] *= running.rescale();
      }
      begin += static_cast<size_t>(n);
    }
    std::ranges::for_each(scores, [&running](float& weight) { weight /= running.sum(); });
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
  OneHead running = head(1.0F);
  running.add(x);
  // Two units in the last place; below the normal range a unit is one subnormal step.
  EXPECT_TRUE(close(x, expected, 4 * kRounding, 2.0 * double{std::numeric_limits<float>::denorm_min()}));
  EXPECT_EQ(x[0], 1.0F);
  EXPECT_EQ(running.max(), 0.0F);
  EXPECT_EQ(running.rescale(), 0.0F);
}

TEST_P(Softmax, FarBelowTheMaximumIsZero) {
  std::vector<float> x = {0.0F, -105.0F, -1000.0F, -1e30F, -3.4e38F, kLowest};
  OneHead running = head(1.0F);
  running.add(x);
  EXPECT_TRUE(identical(x, std::vector<float>{1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}));
  EXPECT_EQ(running.sum(), 1.0F);
}

TEST_P(Softmax, OnlyMaskedScoresLeaveTheSumAtZero) {
  std::vector<float> x(19, kLowest);
  OneHead running = head(0.5F);
  running.add(x);
  EXPECT_TRUE(identical(x, std::vector<float>(19, 0.0F)));
  EXPECT_EQ(running.sum(), 0.0F);
  EXPECT_EQ(running.max(), kLowest);
  // A later tile starts as if there had been none.
  std::vector<float> y = {2.0F, 2.0F};
  running.add(y);
  EXPECT_EQ(running.rescale(), 0.0F);
  EXPECT_EQ(running.sum(), 2.0F);
}

TEST_P(Softmax, EqualMaximaDoNotRescale) {
  std::vector<float> x = {1.5F, 0.25F};
  OneHead running = head(0.1352F);
  running.add(x);
  std::vector<float> y = {1.0F, 1.5F, -3.0F};
  running.add(y);
  EXPECT_EQ(running.rescale(), 1.0F);
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

TEST_P(Softmax, AHeadDoesNotDependOnItsPlace) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> scores = random_.normal(64, 30.0F);
  std::vector<float> expected = scores;
  OneHead first = head(0.2F);
  first.add(expected);
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<float> weights = scores;
    OneHead other = head(0.2F);
    other.add(weights);
    ASSERT_TRUE(identical(weights, expected));
    ASSERT_EQ(other.sum(), first.sum());
    ASSERT_EQ(other.max(), first.max());
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Softmax, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
