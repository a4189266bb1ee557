// The sampler: cuts by hand, frequencies against probabilities, and sequences from an independent model of
// the algorithm (tests/oracle/sampler_model.py: a full sort and the C library's exp).
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "quant/base/error.h"
#include "support/random_tensors.h"

namespace sluice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Nothing but temperature 1.
SamplingParams plain() {
  return {.temperature = 1.0F, .top_p = 1.0F};
}

// Logits whose softmax at temperature 1 is `probabilities`.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// How often each id came in `draws` draws.
std::vector<double> frequencies(SamplingParams params, const std::vector<float>& logits, int64_t draws,
                                const std::vector<int32_t>& history = {}) {
  Sampler sampler(params);
  std::vector<double> counts(logits.size());
  for (int64_t i = 0; i < draws; ++i) counts[static_cast<size_t>(sampler.sample(logits, history))] += 1.0;
  for (double& count : counts) count /= static_cast<double>(draws);
  return counts;
}

// Each frequency within 6 standard deviations; what has probability 0 never came.
void expect_distribution(const SamplingParams& params, const std::vector<float>& logits,
                         const std::vector<double>& wanted, const std::vector<int32_t>& history = {}) {
  constexpr int64_t kDraws = 100'000;
  const std::vector<double> found = frequencies(params, logits, kDraws, history);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double deviation = std::sqrt(wanted[i] * (1 - wanted[i]) / static_cast<double>(kDraws));
    EXPECT_LE(std::abs(found[i] - wanted[i]), 6 * deviation) << "id " << i << ", seed " << params.seed;
  }
}

uint64_t fresh_seed(testing::Random& random) {
  return static_cast<uint64_t>(random.integer(0, std::numeric_limits<int64_t>::max()));
}

std::string error_of(const SamplingParams& params) {
  try {
    params.check();
  } catch (const Error& error) {
    return error.subject();
  }
  return {};
}

TEST(Sampler, ArgmaxTakesTheSmallestIndexOfEquals) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(argmax(std::vector<float>{-1}), 0);
  EXPECT_EQ(argmax(std::vector<float>{-kInfinity, -5, -4}), 2);
  EXPECT_EQ(argmax(std::vector<float>{kNan, -5, kNan}), 1);
  EXPECT_EQ(argmax(std::vector<float>{kNan, kNan}), 0);
  // Every place of vectors that do and do not fill the lanes.
  for (size_t n = 1; n < 50; ++n) {
    for (size_t at = 0; at < n; ++at) {
      std::vector<float> logits(n, -1.0F);
      logits[at] = logits[n - 1] = 2.0F;
      EXPECT_EQ(argmax(logits), static_cast<int32_t>(at));
    }
  }
}

TEST(Sampler, TemperatureZeroIsGreedy) {
  Sampler sampler({.temperature = 0.0F, .top_k = 3, .top_p = 0.1F});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sampler.sample(std::vector<float>{1, 7, 7, 2}, {}), 1);
}

TEST(Sampler, PlainSamplingFollowsTheSoftmax) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  const std::vector<double> probabilities = {0.4, 0.001, 0.25, 0.05, 0.299};
  expect_distribution(params, logits_of(probabilities), probabilities);
}

TEST(Sampler, TemperatureIsAPower) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  params.temperature = 0.5F;
  // Squares of 0.1, 0.3, 0.6, made to sum to 1: 0.01, 0.09, 0.36 of 0.46.
  expect_distribution(params, logits_of({0.1, 0.3, 0.6}), {0.01 / 0.46, 0.09 / 0.46, 0.36 / 0.46});
}

TEST(Sampler, TopK) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  params.top_k = 2;
  expect_distribution(params, logits_of({0.1, 0.3, 0.2, 0.4}), {0, 3.0 / 7, 0, 4.0 / 7});
  // On a tie at the cut the smaller id stays.
  expect_distribution(params, logits_of({0.25, 0.25, 0.25, 0.25}), {0.5, 0.5, 0, 0});
  params.top_k = 9;
  expect_distribution(params, logits_of({0.1, 0.9}), {0.1, 0.9});
}

TEST(Sampler, TopPIsTheSmallestSetThatReachesIt) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  const std::vector<float> logits = logits_of({0.1, 0.5, 0.15, 0.25});
  params.top_p = 0.7F;
  expect_distribution(params, logits, {0, 2.0 / 3, 0, 1.0 / 3});
  params.top_p = 0.76F;
  expect_distribution(params, logits, {0, 5.0 / 9, 1.5 / 9, 2.5 / 9});
  params.top_p = 0.49F;
  expect_distribution(params, logits, {0, 1, 0, 0});
  params.top_p = 0.0F;
  expect_distribution(params, logits, {0, 1, 0, 0});
  params.top_p = 0.5F;  // of four equals, two: those with the smaller ids
  expect_distribution(params, std::vector<float>(4, 2.0F), {0.5, 0.5, 0, 0});
}

TEST(Sampler, TopPCountsWhatTopKLeft) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  params.top_k = 2;
  params.top_p = 0.6F;  // 0.4 of 0.65 reaches it, 0.4 of 1 would not
  expect_distribution(params, logits_of({0.4, 0.25, 0.2, 0.15}), {1, 0, 0, 0});
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  params.min_p = 0.3F;
  expect_distribution(params, logits_of({0.5, 0.2, 0.1, 0.2}), {5.0 / 9, 2.0 / 9, 0, 2.0 / 9});
  params.min_p = 1.0F;
  expect_distribution(params, logits_of({0.2, 0.4, 0.4}), {0, 0.5, 0.5});
}

TEST(Sampler, RepeatPenalty) {
  // 2 / 1.5 = 1.33 and -1 * 1.5 = -1.5; an id that comes twice counts once (2 / 2.25 would be less than 1).
  SamplingParams params = {.temperature = 0.0F, .repeat_penalty = 1.5F};
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{2.0F, 1.4F}, std::vector<int32_t>{0}), 1);
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{2.0F, 1.3F}, std::vector<int32_t>{0}), 0);
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{2.0F, 1.0F}, std::vector<int32_t>{0, 0}), 0);
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{-1.0F, -1.4F}, std::vector<int32_t>{0}), 1);
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{-1.0F, -1.6F}, std::vector<int32_t>{0}), 0);
  // How far back it looks.
  const std::vector<float> logits = {2.0F, 1.9F};
  const std::vector<int32_t> history = {0, 1, 1};
  params.repeat_last_n = 2;
  EXPECT_EQ(Sampler(params).sample(logits, history), 0);
  params.repeat_last_n = 1;
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{1.9F, 2.0F}, history), 0);
  params.repeat_last_n = 0;
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{1.9F, 2.0F}, history), 1);
  params.repeat_last_n = -1;
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{2.0F, 1.9F, 1.5F}, history), 2);
}

TEST(Sampler, MaskedTokensNeverCome) {
  testing::Random random;
  SamplingParams params = plain();
  params.seed = fresh_seed(random);
  params.temperature = 100.0F;
  expect_distribution(params, {-kInfinity, 1.0F, -kInfinity, 1.0F}, {0, 0.5, 0, 0.5});
}

TEST(Sampler, ExtremeTemperatures) {
  SamplingParams params = plain();
  params.temperature = std::numeric_limits<float>::denorm_min();
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{-largest, largest, 0}, {}), 1);
  params.temperature = largest;
  expect_distribution(params, {-largest, -largest, -largest, -largest}, {0.25, 0.25, 0.25, 0.25});
  params.top_p = 0.95F;
  params.min_p = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(Sampler(params).sample(std::vector<float>{3}, {}), 0);
}

// Which ids the definition leaves, by a full sort in floating point. Empty when a cut is too close to call.
std::set<int32_t> survivors(const SamplingParams& params, const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t id) { return static_cast<double>(logits[static_cast<size_t>(id)]); };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<size_t>(params.top_k));
  }
  const auto weight = [&](int32_t id) {
    return std::exp((logit(id) - logit(order[0])) / double{params.temperature});
  };
  double total = 0;
  for (const int32_t id : order) total += weight(id);
  std::set<int32_t> left;
  double sum = 0;
  for (const int32_t id : order) {
    if (std::abs(sum / total - double{params.top_p}) < 1e-6) return {};
    if (sum / total > double{params.top_p}) break;
    sum += weight(id);
    if (std::abs(weight(id) - double{params.min_p}) < 1e-6) return {};
    if (weight(id) > double{params.min_p}) left.insert(id);
  }
  return left;
}

TEST(Sampler, CutsAgreeWithAFullSort) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  int compared = 0;
  for (int round = 0; round < 150; ++round) {
    const int64_t vocabulary = random.integer(1, 60);
    std::vector<float> logits = random.normal(vocabulary, 1.0F);
    // Coarse steps in half of the rounds, so that there are ties.
    if (round % 2 == 0) {
      for (float& logit : logits) logit = std::round(logit * 2) / 2;
    }
    const SamplingParams params = {.temperature = random.uniform(0.5F, 3.0F),
                                   .top_k = random.integer(0, 70),
                                   .top_p = random.uniform(0.05F, 1.0F),
                                   .min_p = random.integer(0, 1) == 0 ? 0.0F : random.uniform(0.0F, 0.5F),
                                   .seed = fresh_seed(random)};
    const std::set<int32_t> wanted = survivors(params, logits);
    if (wanted.empty()) continue;
    ++compared;
    const std::vector<double> often = frequencies(params, logits, 6000);
    for (int32_t id = 0; id < vocabulary; ++id) {
      if (wanted.contains(id)) continue;
      EXPECT_EQ(often[static_cast<size_t>(id)], 0.0) << "round " << round << ", id " << id;
    }
    for (const int32_t id : wanted) {
      const double relative = std::exp((double{logits[static_cast<size_t>(id)]} -
                                        double{*std::max_element(logits.begin(), logits.end())}) /
                                       double{params.temperature});
      // Of 60 tokens at most, so its share is at least 0.4 / 60: 40 of the 6000 draws.
      if (relative > 0.4) {
        EXPECT_GT(often[static_cast<size_t>(id)], 0.0) << "round " << round << ", id " << id;
      }
    }
  }
  EXPECT_GT(compared, 100);
}

TEST(Sampler, LargeTopKSelects) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const int64_t vocabulary = 5000;
  std::vector<float> logits = random.normal(vocabulary);
  for (float& logit : logits) logit = std::round(logit * 8) / 8;
  const SamplingParams params = {
      .temperature = 2.0F, .top_k = 2000, .top_p = 1.0F, .seed = fresh_seed(random)};
  const std::set<int32_t> wanted = survivors({.temperature = 2.0F, .top_k = 2000, .top_p = 1.0F}, logits);
  ASSERT_EQ(wanted.size(), 2000U);
  Sampler sampler(params);
  for (int i = 0; i < 3000; ++i) EXPECT_TRUE(wanted.contains(sampler.sample(logits, {})));
}

// 200 logits, exact in float32, different at each step.
std::vector<float> recipe_logits(int step) {
  std::vector<float> logits;
  logits.reserve(200);
  for (int i = 0; i < 200; ++i) {
    logits.push_back(static_cast<float>((i * 7919 + step * 104729) % 1009) / 64.0F - 4.0F);
  }
  return logits;
}

std::vector<int32_t> sequence(const SamplingParams& params) {
  Sampler sampler(params);
  std::vector<int32_t> history;
  history.reserve(32);
  for (int step = 0; step < 32; ++step) history.push_back(sampler.sample(recipe_logits(step), history));
  return history;
}

TEST(Sampler, SequencesOfTheIndependentModel) {
  EXPECT_EQ(sequence({.temperature = 1.0F, .top_p = 1.0F, .seed = 1234}),
            (std::vector<int32_t>{198, 12, 189, 194, 28, 185, 170, 195, 9,  153, 191, 25, 96, 188, 28,  158,
                                  5,   10, 55,  146, 39, 196, 56,  180, 21, 138, 111, 10, 48, 172, 152, 11}));
  EXPECT_EQ(sequence({.temperature = 0.8F,
                      .top_k = 40,
                      .top_p = 0.9F,
                      .min_p = 0.02F,
                      .repeat_penalty = 1.3F,
                      .repeat_last_n = 8,
                      .seed = 42}),
            (std::vector<int32_t>{139, 131, 149, 29, 173, 20, 124, 70, 42, 67, 0,  104, 129, 121, 166, 191,
                                  157, 76,  16,  14, 145, 31, 83,  22, 34, 19, 97, 96,  160, 14,  151, 64}));
  EXPECT_EQ(
      sequence({.temperature = 2.5F, .top_p = 0.95F, .seed = (uint64_t{1} << 63U) + 5}),
      (std::vector<int32_t>{198, 157, 103, 70,  193, 134, 144, 44,  82, 133, 41,  52,  33,  49,  133, 99,
                            71,  103, 22,  101, 192, 85,  76,  101, 14, 39,  185, 196, 129, 139, 151, 117}));
}

TEST(Sampler, SeedDecides) {
  const SamplingParams params = {.temperature = 3.0F, .seed = 7};
  EXPECT_EQ(sequence(params), sequence(params));
  SamplingParams other = params;
  other.seed = 8;
  EXPECT_NE(sequence(params), sequence(other));
}

TEST(Sampler, BadLogitsAreRefused) {
  for (const float temperature : {0.0F, 1.0F}) {
    SamplingParams params = plain();
    params.temperature = temperature;
    Sampler sampler(params);
    EXPECT_THROW(sampler.sample(std::vector<float>{1, kNan, 2}, {}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{kInfinity, 2}, {}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{-kInfinity, -kInfinity}, {}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{}, {}), Error);
    params.repeat_penalty = 1.1F;
    EXPECT_THROW(Sampler(params).sample(std::vector<float>{1, 2}, std::vector<int32_t>{2}), Error);
    EXPECT_THROW(Sampler(params).sample(std::vector<float>{1, 2}, std::vector<int32_t>{-1}), Error);
  }
}

TEST(Sampler, ParametersOutOfRangeAreNamed) {
  EXPECT_EQ(error_of({}), "");
  EXPECT_EQ(error_of({.temperature = -0.1F}), "--temp");
  EXPECT_EQ(error_of({.temperature = kNan}), "--temp");
  EXPECT_EQ(error_of({.temperature = kInfinity}), "--temp");
  EXPECT_EQ(error_of({.top_k = -1}), "--top-k");
  EXPECT_EQ(error_of({.top_p = 1.01F}), "--top-p");
  EXPECT_EQ(error_of({.top_p = kNan}), "--top-p");
  EXPECT_EQ(error_of({.min_p = -0.5F}), "--min-p");
  EXPECT_EQ(error_of({.repeat_penalty = 0.0F}), "--repeat-penalty");
  EXPECT_EQ(error_of({.repeat_penalty = kInfinity}), "--repeat-penalty");
  EXPECT_EQ(error_of({.repeat_last_n = -2}), "--repeat-last-n");
  EXPECT_THROW(Sampler({.top_p = -1.0F}), Error);
}

}  // namespace
}  // namespace sluice
