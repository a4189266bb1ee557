// The router against the steps of the model specification (2.8) written with sorts in double precision.
#include "kernels_cpu/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice::testing {
namespace {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice route(const cpu::RouterParams& params, const std::vector<float>& logits,
             const std::vector<float>& bias) {
  Choice choice{std::vector<int32_t>(static_cast<size_t>(params.experts_used), -1),
                std::vector<float>(static_cast<size_t>(params.experts_used))};
  std::vector<float> scratch(static_cast<size_t>(cpu::router_scratch_floats(params)));
  cpu::route_token(params, logits, bias, choice.ids, choice.weights, scratch);
  return choice;
}

/// Indices of the `count` largest values, ties to the smaller index, ascending.
std::vector<int32_t> best(const std::vector<float>& values, int64_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

/// The float32 scores, as the router must see them to break ties alike; everything after them with sorts.
Choice naive(const cpu::RouterParams& params, const std::vector<float>& logits,
             const std::vector<float>& bias) {
  std::vector<float> choice;
  for (size_t e = 0; e < logits.size(); ++e) {
    const float score = 1.0F / (1.0F + std::exp(-logits[e]));
    choice.push_back(bias.empty() ? score : score + bias[e]);
  }
  const int64_t size = params.experts / params.groups;
  std::vector<float> group_scores;
  for (int64_t g = 0; g < params.groups; ++g) {
    std::vector<float> group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::ranges::sort(group, std::greater<>());
    group_scores.push_back(size == 1 ? group[0] : group[0] + group[1]);
  }
  const std::vector<int32_t> kept = best(group_scores, params.groups_used);
  for (int64_t e = 0; e < params.experts; ++e) {
    if (std::ranges::count(kept, static_cast<int32_t>(e / size)) == 0) {
      choice[static_cast<size_t>(e)] = -std::numeric_limits<float>::infinity();
    }
  }
  Choice result{best(choice, params.experts_used), {}};
  std::vector<double> scores;
  for (const int32_t id : result.ids) {
    scores.push_back(1.0 / (1.0 + std::exp(-static_cast<double>(logits[static_cast<size_t>(id)]))));
  }
  const double sum = params.normalize ? std::accumulate(scores.begin(), scores.end(), 0.0) : 1.0;
  for (const double score : scores) {
    result.weights.push_back(static_cast<float>(score / sum * static_cast<double>(params.scale)));
  }
  return result;
}

// exp, two roundings of the sigmoid, up to eight of the sum, two of the division and product.
constexpr double kTolerance = 20 * kRounding;

void expect_like_naive(const cpu::RouterParams& params, const std::vector<float>& logits,
                       const std::vector<float>& bias) {
  const Choice actual = route(params, logits, bias);
  const Choice expected = naive(params, logits, bias);
  ASSERT_EQ(actual.ids, expected.ids);
  EXPECT_TRUE(close(actual.weights, expected.weights, kTolerance, 0.0));
}

class Router : public ::testing::Test {
 protected:
  Random random_;
};

TEST_F(Router, RandomTokensOfTheRealShape) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 200; ++trial) {
    const cpu::RouterParams params;
    expect_like_naive(params, random_.normal(256, 2.0F), random_.normal(256, 0.3F));
    expect_like_naive(params, random_.normal(256, 2.0F), {});
  }
}

TEST_F(Router, OtherShapes) {
  SCOPED_TRACE(random_.describe());
  const std::vector<cpu::RouterParams> shapes = {
      {.experts = 16, .experts_used = 4, .groups = 1, .groups_used = 1},
      {.experts = 16, .experts_used = 16, .groups = 4, .groups_used = 4},
      {.experts = 8, .experts_used = 1, .groups = 8, .groups_used = 1, .normalize = false, .scale = 1.0F},
      {.experts = 12, .experts_used = 5, .groups = 6, .groups_used = 3, .normalize = false, .scale = 0.5F},
      {.experts = 1, .experts_used = 1, .groups = 1, .groups_used = 1}};
  for (const cpu::RouterParams& params : shapes) {
    for (int trial = 0; trial < 50; ++trial) {
      expect_like_naive(params, random_.normal(params.experts), random_.normal(params.experts));
    }
  }
}

TEST_F(Router, TiesGoToTheSmallerIdAndGroup) {
  SCOPED_TRACE(random_.describe());
  const cpu::RouterParams params;
  const Choice equal = route(params, std::vector<float>(256, 0.5F), {});
  EXPECT_EQ(equal.ids, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<float> logits(256);
    for (float& logit : logits) logit = static_cast<float>(random_.integer(-1, 1));
    expect_like_naive(params, logits, {});
  }
}

TEST_F(Router, TheBiasDecidesTheChoiceOnly) {
  cpu::RouterParams params{.experts = 4, .experts_used = 2, .groups = 1, .groups_used = 1};
  const Choice choice = route(params, {0.0F, 1.0F, -1.0F, 2.0F}, {0.0F, 0.0F, 5.0F, 0.0F});
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{2, 3}));
  // sigmoid(-1) = 0.26894142, sigmoid(2) = 0.88079708; shares of their sum times 2.5.
  EXPECT_NEAR(static_cast<double>(choice.weights[0]), 2.5 * 0.26894142 / 1.14973850, 1e-6);
  EXPECT_NEAR(static_cast<double>(choice.weights[1]), 2.5 * 0.88079708 / 1.14973850, 1e-6);
}

TEST_F(Router, AGroupCountsByItsTwoBest) {
  // Group 0 has the single best expert, group 1 the better pair: only group 1 is kept.
  const cpu::RouterParams params{.experts = 6, .experts_used = 2, .groups = 2, .groups_used = 1};
  EXPECT_EQ(route(params, {3.0F, -9.0F, -9.0F, 1.0F, 0.0F, 1.0F}, {}).ids, (std::vector<int32_t>{3, 5}));
}

TEST_F(Router, NegativeChoiceScoresInAKeptGroupBeatDroppedGroups) {
  const cpu::RouterParams params{.experts = 4, .experts_used = 2, .groups = 2, .groups_used = 1};
  EXPECT_EQ(route(params, {0.0F, 0.0F, 0.0F, 0.0F}, {-1.0F, -9.0F, -8.0F, -3.0F}).ids,
            (std::vector<int32_t>{0, 1}));
}

TEST_F(Router, HostileLogitsChooseDistinctValidExperts) {
  SCOPED_TRACE(random_.describe());
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> hostile = {kNan, kInf, -kInf, 1e38F, -1e38F, 0.0F};
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> logits;
    std::vector<float> bias;
    const int64_t kinds = random_.integer(1, static_cast<int64_t>(hostile.size()));
    for (int e = 0; e < 256; ++e) {
      logits.push_back(hostile[static_cast<size_t>(random_.integer(0, kinds - 1))]);
      bias.push_back(hostile[static_cast<size_t>(random_.integer(0, kinds - 1))]);
    }
    const Choice choice = route({}, logits, trial % 2 == 0 ? bias : std::vector<float>{});
    EXPECT_EQ(std::ranges::adjacent_find(choice.ids, std::greater_equal<>()), choice.ids.end());
    EXPECT_GE(choice.ids.front(), 0);
    EXPECT_LT(choice.ids.back(), 256);
  }
}

TEST_F(Router, ANanIsNotChosenWhileOthersAre) {
  const cpu::RouterParams params{.experts = 4, .experts_used = 2, .groups = 1, .groups_used = 1};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(route(params, {nan, -50.0F, nan, -60.0F}, {}).ids, (std::vector<int32_t>{1, 3}));
}

TEST_F(Router, ScoresThatAllUnderflowGiveWeightZero) {
  const Choice choice = route({}, std::vector<float>(256, -200.0F), {});
  EXPECT_TRUE(close(choice.weights, std::vector<float>(8, 0.0F), 0.0, 0.0));
}

}  // namespace
}  // namespace sluice::testing
