// What a pass's experts take, divided between CPU and stream: the expected routes, and cases that can be
// reckoned by hand.
#include "offload/expert_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

using testing::Random;

TEST(ExpectedTokens, AreTheChoicesOfAllTokens) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < 300; ++i) {
    const int64_t experts = random.integer(2, 300);
    const int64_t used = random.integer(1, experts);
    const int64_t tokens = random.integer(1, 40'000);
    const std::vector<int64_t> found = expected_tokens(experts, used, tokens);
    ASSERT_EQ(found.size(), static_cast<size_t>(experts));
    const auto choices = static_cast<double>(tokens * used);
    const auto sum = static_cast<double>(std::accumulate(found.begin(), found.end(), int64_t{0}));
    // A quantile is at most one token off its part's mean but at the ends, where the tails are.
    const double share = static_cast<double>(used) / static_cast<double>(experts);
    const double deviation = std::sqrt(static_cast<double>(tokens) * share * (1 - share));
    EXPECT_NEAR(sum, choices, static_cast<double>(experts) / 2 + 2 * deviation)
        << experts << " " << used << " " << tokens;
  }
}

TEST(ExpectedTokens, OneTokenMeetsWhatItChooses) {
  const std::vector<int64_t> found = expected_tokens(256, 8, 1);
  EXPECT_EQ(std::ranges::count(found, 1), 8);
  EXPECT_EQ(std::ranges::count(found, 0), 248);
  EXPECT_EQ(expected_tokens(4, 4, 7), (std::vector<int64_t>{7, 7, 7, 7}));
  EXPECT_EQ(expected_tokens(1, 1, 3), (std::vector<int64_t>{3}));
}

TEST(ExpectedTokens, AnyPartOfTheExpertsIsLikeTheWhole) {
  const std::vector<int64_t> found = expected_tokens(256, 8, 512);
  const double eighth = std::accumulate(found.begin(), found.begin() + 32, 0.0) / 32;
  EXPECT_NEAR(eighth, 16, 1);
}

class ExpertPassTest : public ::testing::Test {
 protected:
  /// Ten experts of 1 MB, two tokens each.
  std::vector<int64_t> tokens_ = std::vector<int64_t>(10, 2);
  ExpertPassCase pass_{.tokens = tokens_, .expert_bytes = 1e6, .choice_operations = 1e6, .ring_experts = 13};
  // Reading an expert: 10 us, a product: 1 us, a copy: 50 us, a product there: 0.1 us.
  SplitMachine machine_{
      .ram_gb_per_s = 100, .cpu_gops = 1000, .copy_gb_per_s = 20, .copy_us = 0, .gpu_tflops = 10};
};

TEST_F(ExpertPassTest, WithoutARingTheCpuTakesTheLongerOfReadingAndProducts) {
  pass_.ring_experts = 0;
  const ExpertPass reading = expected_pass(pass_, machine_);
  EXPECT_EQ(reading.cpu_experts, 10);
  EXPECT_EQ(reading.met, 10);
  EXPECT_EQ(reading.choices, 20);
  EXPECT_EQ(reading.on_gpu, 0);
  EXPECT_NEAR(reading.cpu_us, 100, 1e-6);
  EXPECT_EQ(reading.stream_us, 0);
  machine_.cpu_gops = 10;
  EXPECT_NEAR(expected_pass(pass_, machine_).cpu_us, 2000, 1e-6);
}

TEST_F(ExpertPassTest, ProductsHideWhatCopiesTakeOfTheMemory) {
  machine_.cpu_gops = 50;  // two tokens of an expert: 40 us, of which reading could be 10
  const ExpertPass p = expected_pass(pass_, machine_);
  // Four copies and six experts: 200 + 0.2 us and 240 us; five and five: 250 and 200.
  EXPECT_EQ(p.cpu_experts, 6);
  EXPECT_NEAR(p.cpu_us, 240, 1e-6);
  EXPECT_NEAR(p.stream_us, 200.2, 1e-6);
  EXPECT_NEAR(p.copy_us, 200, 1e-6);
  EXPECT_NEAR(p.gpu_us, 0.8, 1e-6);
}

TEST_F(ExpertPassTest, WhereReadingIsTheLimitCopiesGainNothing) {
  machine_.copy_gb_per_s = 50;  // 20 us: what is copied meanwhile the CPU cannot read
  const ExpertPass p = expected_pass(pass_, machine_);
  EXPECT_EQ(p.cpu_experts, 10);
  EXPECT_NEAR(p.cpu_us, 100, 1e-6);
  machine_.cpu_gops = 40;  // products of an expert take 50 us
  EXPECT_LT(expected_pass(pass_, machine_).cpu_experts, 10);
}

TEST_F(ExpertPassTest, CopiesRunAheadAsFarAsWindowRingAndCertaintyAllow) {
  machine_.cpu_gops = 0.1;  // all to the stream
  tokens_.assign(10, 8);
  pass_.window_us = 170;
  pass_.last_on_gpu = 10;
  pass_.limits_cpu = true;
  const auto late = [&] { return expected_pass(pass_, machine_).late_copy_us; };
  EXPECT_NEAR(late(), 7 * 50, 1e-6) << "three in 170 us";
  EXPECT_NEAR(expected_pass(pass_, machine_).copy_us, 500, 1e-6);
  pass_.ring_experts = 2;
  EXPECT_NEAR(late(), 8 * 50, 1e-6);
  pass_.ring_experts = 13;
  pass_.window_us = 1e9;
  EXPECT_EQ(late(), 0);
  pass_.limits_cpu = false;  // the CPU may get a share
  EXPECT_NEAR(late(), 5 * 50, 1e-6);
  pass_.last_on_gpu = 4;  // the CPU had a share: half of what the GPU had
  EXPECT_NEAR(late(), 8 * 50, 1e-6);
  tokens_.assign(10, 7);  // who is chosen is not sure
  EXPECT_NEAR(late(), 10 * 50, 1e-6);
}

TEST_F(ExpertPassTest, LongPassesLeaveTheCpuFewTokens) {
  tokens_.assign(10, 2000);
  machine_.copy_gb_per_s = 0.01;  // 100 ms
  const ExpertPass free = expected_pass(pass_, machine_);
  EXPECT_GT(free.cpu_choices, kMostSharedTokens);
  pass_.limits_cpu = true;
  const ExpertPass limited = expected_pass(pass_, machine_);
  EXPECT_LE(limited.cpu_choices, kMostSharedTokens);
  EXPECT_EQ(limited.cpu_experts, 2);
  EXPECT_NEAR(limited.copy_us, 8 * 100e3, 1);
}

}  // namespace
}  // namespace sluice::offload
