// Perplexity's protocol on hand-made tokens and logits: which windows there are, which predictions count,
// mean and error.
#include "engine/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "quant/base/error.h"
#include "support/random_tensors.h"

namespace sluice {
namespace {

constexpr int32_t kBos = 1000;

std::vector<int32_t> counting(int64_t n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

using Ids = std::vector<int32_t>;

TEST(PerplexityWindows, HalfReplacesTheFirstTokenOfEachChunkOfBosAndText) {
  // BOS 0 1 | 2 3 4 | 5 6 7 ... in chunks of 4: [BOS 0 1 2] [3 4 5 6] [7 8 9] and the last is incomplete.
  const PerplexityWindows windows(counting(10), kBos, 4, ScoreProtocol::kHalf, "text");
  ASSERT_EQ(windows.count(), 2);
  EXPECT_EQ(windows.window(0).ids, (Ids{kBos, 0, 1, 2}));
  EXPECT_EQ(windows.window(1).ids, (Ids{kBos, 4, 5, 6}));
  EXPECT_EQ(windows.window(0).first_scored, 2);  // position 2 predicts the token at 3, and that is all
  EXPECT_EQ(windows.scored_per_window(), 1);
}

TEST(PerplexityWindows, HalfCountsWithOddAndEvenContexts) {
  for (const int64_t context : {3, 4, 5, 8, 9, 512}) {
    const PerplexityWindows windows(counting(context * 3 - 1), kBos, context, ScoreProtocol::kHalf, "text");
    EXPECT_EQ(windows.count(), 3) << context;
    EXPECT_EQ(windows.scored_per_window(), context - context / 2 - 1) << context;
  }
}

TEST(PerplexityWindows, AllPutsBosBeforeEachPieceAndScoresEverything) {
  const PerplexityWindows windows(counting(8), kBos, 4, ScoreProtocol::kAll, "text");
  ASSERT_EQ(windows.count(), 2);
  EXPECT_EQ(windows.window(0).ids, (Ids{kBos, 0, 1, 2}));
  EXPECT_EQ(windows.window(1).ids, (Ids{kBos, 3, 4, 5}));
  EXPECT_EQ(windows.window(1).first_scored, 0);
  EXPECT_EQ(windows.scored_per_window(), 3);
}

TEST(PerplexityWindows, GoldenCountsOfWindowsAndTokens) {
  // The held-out text of the reference has 668,703 tokens; its counts are of the `all` protocol.
  const PerplexityWindows at_2048(counting(668703), kBos, 2048, ScoreProtocol::kAll, "text");
  EXPECT_EQ(at_2048.count(), 326);
  EXPECT_EQ(at_2048.count() * at_2048.scored_per_window(), 667322);
  const PerplexityWindows at_4096(counting(668703), kBos, 4096, ScoreProtocol::kAll, "text");
  EXPECT_EQ(at_4096.count(), 163);
  EXPECT_EQ(at_4096.count() * at_4096.scored_per_window(), 667485);
}

std::string refusal(int64_t tokens, int64_t context, ScoreProtocol protocol) {
  try {
    const PerplexityWindows windows(counting(tokens), kBos, context, protocol, "book.txt");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(PerplexityWindows, RefusesTextsThatFillNoWindowNamingBothNumbers) {
  for (const ScoreProtocol protocol : {ScoreProtocol::kHalf, ScoreProtocol::kAll}) {
    EXPECT_EQ(refusal(511, 512, protocol), "accepted");
    const std::string text = refusal(510, 512, protocol);
    EXPECT_NE(text.find("book.txt"), std::string::npos) << text;
    EXPECT_NE(text.find("511"), std::string::npos) << text;
    EXPECT_NE(text.find("510"), std::string::npos) << text;
  }
}

TEST(PerplexityWindows, RefusesContextsThatScoreNothing) {
  for (const int64_t context : {-1, 0, 1, 2}) {
    EXPECT_NE(refusal(100, context, ScoreProtocol::kHalf).find("--ctx-size"), std::string::npos) << context;
  }
  EXPECT_NE(refusal(100, 1, ScoreProtocol::kAll).find("--ctx-size"), std::string::npos);
  EXPECT_EQ(refusal(100, 2, ScoreProtocol::kAll), "accepted");
  EXPECT_EQ(refusal(100, 3, ScoreProtocol::kHalf), "accepted");
}

TEST(NegativeLogLikelihood, HandMadeLogits) {
  EXPECT_NEAR(negative_log_likelihood(std::vector<float>(8, 3.5F), 5), std::log(8.0), 1e-15);
  // e^0 : e^ln3 = 1 : 3
  const std::vector<float> quarter{0.0F, std::log(3.0F)};
  EXPECT_NEAR(negative_log_likelihood(quarter, 0), std::log(4.0), 1e-7);
  EXPECT_NEAR(negative_log_likelihood(quarter, 1), std::log(4.0 / 3.0), 1e-7);
}

TEST(NegativeLogLikelihood, LargeLogitsNeitherOverflowNorVanish) {
  const std::vector<float> logits{3e38F, -3e38F, 1000.0F};
  EXPECT_EQ(negative_log_likelihood(logits, 0), 0.0);
  EXPECT_GT(negative_log_likelihood(logits, 1), 5e38);
  const std::vector<float> close{10000.0F, 10000.0F};
  EXPECT_NEAR(negative_log_likelihood(close, 1), std::log(2.0), 1e-12);
}

TEST(NegativeLogLikelihood, NotANumberIsNotHidden) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits : {std::vector<float>{nan, 1.0F}, std::vector<float>{1.0F, nan}}) {
    EXPECT_FALSE(std::isfinite(negative_log_likelihood(logits, 0)));
  }
}

TEST(NllSum, MeanErrorAndPerplexityByHand) {
  NllSum sum;
  EXPECT_EQ(sum.mean(), 0);
  sum.add(1.0);
  EXPECT_EQ(sum.mean_error(), 0);
  sum.add(2.0);
  sum.add(6.0);
  EXPECT_EQ(sum.count(), 3);
  EXPECT_DOUBLE_EQ(sum.mean(), 3.0);
  // deviations -2, -1, 3: squares sum to 14, mean 14/3, over n - 1 = 2: sqrt(7/3)
  EXPECT_NEAR(sum.mean_error(), std::sqrt(7.0 / 3.0), 1e-14);
  EXPECT_NEAR(sum.perplexity(), std::exp(3.0), 1e-12);
  EXPECT_NEAR(sum.perplexity_error(), std::exp(3.0) * std::sqrt(7.0 / 3.0), 1e-12);
}

TEST(NllSum, AddingSumsIsAddingTheirTokens) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  NllSum whole;
  NllSum parts[2];
  for (int i = 0; i < 100; ++i) {
    const double nll = random.uniform(0.0F, 12.0F);
    whole.add(nll);
    parts[random.integer(0, 1)].add(nll);
  }
  parts[0].add(parts[1]);
  EXPECT_EQ(parts[0].count(), whole.count());
  EXPECT_NEAR(parts[0].mean(), whole.mean(), 1e-12);
  EXPECT_NEAR(parts[0].mean_error(), whole.mean_error(), 1e-12);
}

}  // namespace
}  // namespace sluice
