// Exact top-k against a sort by the rule: larger score first, then smaller position.
#include "kernels_cpu/topk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "support/random_tensors.h"

namespace sluice::testing {
namespace {

std::vector<int32_t> by_sorting(const std::vector<float>& scores, int64_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&scores](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(std::min(k, static_cast<int64_t>(scores.size()))));
  std::ranges::sort(order);
  return order;
}

std::vector<int32_t> selected(const std::vector<float>& scores, int64_t k) {
  std::vector<int32_t> positions(static_cast<size_t>(std::min(k, static_cast<int64_t>(scores.size()))));
  std::vector<uint64_t> scratch(scores.size());
  const int64_t count = cpu::top_k(scores, k, positions, scratch);
  EXPECT_EQ(count, static_cast<int64_t>(positions.size()));
  return positions;
}

class TopK : public ::testing::Test {
 protected:
  Random random_;
};

TEST_F(TopK, RandomScoresOfManyLengths) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t n = random_.integer(1, 5000);
    const std::vector<float> scores = random_.normal(n);
    const int64_t k = random_.integer(1, n);
    ASSERT_EQ(selected(scores, k), by_sorting(scores, k)) << "n " << n << " k " << k;
  }
}

TEST_F(TopK, ManyTiesNegativeScoresAndBothZeros) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> few = {-2.5F, -1.0F, -0.0F, 0.0F, 1e-45F, -1e-45F, 3.0F};
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t n = random_.integer(1, 3000);
    const int64_t kinds = random_.integer(1, static_cast<int64_t>(few.size()));
    std::vector<float> scores;
    for (int64_t i = 0; i < n; ++i) {
      scores.push_back(few[static_cast<size_t>(random_.integer(0, kinds - 1))]);
    }
    const int64_t k = random_.integer(1, n);
    ASSERT_EQ(selected(scores, k), by_sorting(scores, k)) << "n " << n << " k " << k;
  }
}

TEST_F(TopK, TheRealShape) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> scores = random_.normal(131072);
  for (size_t i = 0; i < scores.size(); i += 3) {
    scores[i] = 0.0F;  // the indexer's score of a key that every head rejects
  }
  EXPECT_EQ(selected(scores, 2048), by_sorting(scores, 2048));
  EXPECT_EQ(selected(scores, 100000), by_sorting(scores, 100000));
}

TEST_F(TopK, EqualScoresKeepTheFirstPositions) {
  EXPECT_EQ(selected(std::vector<float>(50, -1.0F), 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(selected({0.0F, -0.0F, 0.0F, -0.0F}, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(selected({-0.0F, 0.0F}, 1), (std::vector<int32_t>{0}));
}

TEST_F(TopK, InfinitiesAreOrdinaryScores) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(selected({-kInf, 1.0F, kInf, -3e38F, -kInf}, 3), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(selected({-kInf, -kInf, -kInf}, 2), (std::vector<int32_t>{0, 1}));
}

TEST_F(TopK, AllOfThemNoneOfThemAndMoreThanThereAre) {
  EXPECT_EQ(selected({3.0F, 1.0F, 2.0F}, 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(selected({3.0F, 1.0F, 2.0F}, 2048), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_TRUE(selected({3.0F, 1.0F, 2.0F}, 0).empty());
  EXPECT_TRUE(selected({}, 5).empty());
}

}  // namespace
}  // namespace sluice::testing
