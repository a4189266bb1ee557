// Exact top-k against a sort by the rule: larger score first, then smaller position.
#include "kernels_cpu/topk.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "support/every_isa.h"

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

constexpr int32_t kGuard = -55;

class TopK : public EveryIsa {
 protected:
  std::vector<int32_t> selected(const std::vector<float>& scores, int64_t k) {
    const auto n = static_cast<int64_t>(scores.size());
    std::vector<int32_t> positions(static_cast<size_t>(std::min(k, n)) + 1, kGuard);
    std::vector<int32_t> scratch(static_cast<size_t>(cpu::top_k_scratch(n)));
    const int64_t count = cpu::top_k(kernels_, scores, k, positions, scratch);
    EXPECT_EQ(count, static_cast<int64_t>(positions.size()) - 1);
    EXPECT_EQ(positions.back(), kGuard);
    positions.pop_back();
    return positions;
  }

  void check(const std::vector<float>& scores, int64_t k) {
    ASSERT_EQ(selected(scores, k), by_sorting(scores, k)) << "n " << scores.size() << " k " << k;
  }
};

TEST_P(TopK, RandomScoresOfManyLengths) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t n = random_.integer(1, 5000);
    const std::vector<float> scores = random_.normal(n);
    const int64_t k = random_.integer(1, n);
    check(scores, k);
  }
}

TEST_P(TopK, ManyTiesNegativeScoresAndBothZeros) {
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
    check(scores, k);
  }
}

TEST_P(TopK, TheRealShape) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> scores = random_.normal(131072);
  for (size_t i = 0; i < scores.size(); i += 3) {
    scores[i] = 0.0F;  // the indexer's score of a key that every head rejects
  }
  EXPECT_EQ(selected(scores, 2048), by_sorting(scores, 2048));
  EXPECT_EQ(selected(scores, 100000), by_sorting(scores, 100000));
}

TEST_P(TopK, EqualScoresKeepTheFirstPositions) {
  EXPECT_EQ(selected(std::vector<float>(50, -1.0F), 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(selected({0.0F, -0.0F, 0.0F, -0.0F}, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(selected({-0.0F, 0.0F}, 1), (std::vector<int32_t>{0}));
}

TEST_P(TopK, InfinitiesAreOrdinaryScores) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(selected({-kInf, 1.0F, kInf, -3e38F, -kInf}, 3), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(selected({-kInf, -kInf, -kInf}, 2), (std::vector<int32_t>{0, 1}));
}

TEST_P(TopK, AllOfThemNoneOfThemAndMoreThanThereAre) {
  EXPECT_EQ(selected({3.0F, 1.0F, 2.0F}, 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(selected({3.0F, 1.0F, 2.0F}, 2048), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_TRUE(selected({3.0F, 1.0F, 2.0F}, 0).empty());
  EXPECT_TRUE(selected({}, 5).empty());
}

/// Rows on which a search by digits could go wrong: neighbours in the last bits, one value far from the rest,
/// runs of ties at the border, subnormals, the ends of the range.
TEST_P(TopK, HostileRows) {
  SCOPED_TRACE(random_.describe());
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr int64_t kScores = 5000;
  const auto row = [&](auto value) {
    std::vector<float> scores;
    for (int64_t i = 0; i < kScores; ++i) {
      scores.push_back(value(i));
    }
    return scores;
  };
  const auto neighbours = [&](float of) {
    return row([&, of](int64_t) {
      return std::bit_cast<float>(std::bit_cast<int32_t>(of) +
                                  static_cast<int32_t>(random_.integer(0, 2500)));
    });
  };
  for (const int64_t k : {1, 2, 2047, 2048, 4999, 5000}) {
    check(row([](int64_t) { return -kInf; }), k);
    check(row([](int64_t) { return std::numeric_limits<float>::max(); }), k);
    check(row([](int64_t i) { return i == 4321 ? 1.0F : -kInf; }), k);
    check(row([](int64_t i) { return i % 2 == 0 ? kInf : -kInf; }), k);
    check(row([](int64_t i) { return static_cast<float>(i); }), k);
    check(row([](int64_t i) { return -static_cast<float>(i); }), k);
    check(row([](int64_t i) { return i < 2047 ? 2.0F : 1.0F; }), k);
    check(row([](int64_t i) { return i >= 2951 ? 2.0F : 1.0F; }), k);
    check(neighbours(1.0F), k);
    check(neighbours(-1.0F), k);
    check(neighbours(0.0F), k);
    check(neighbours(-0.0F), k);
  }
}

/// Any bits but those of a NaN.
TEST_P(TopK, AnyFloats) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<float> scores;
    while (scores.size() < 3000) {
      const auto bits = static_cast<uint32_t>(random_.integer(0, 0xFFFFFFFF));
      if ((bits & 0x7FFFFFFFU) <= 0x7F800000U) {
        scores.push_back(std::bit_cast<float>(bits));
      }
    }
    check(scores, random_.integer(1, 3000));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, TopK, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
