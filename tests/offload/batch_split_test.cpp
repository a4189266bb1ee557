// Splits are the best of all cuts by their own prediction, and rates that are wrong are found out.
#include "offload/batch_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

// A workstation: DeepSeek-V3.2's experts in NVFP4.
constexpr SplitMachine kWorkstation{
    .ram_gb_per_s = 90, .cpu_gops = 2000, .copy_gb_per_s = 55, .copy_us = 10, .gpu_tflops = 100};
constexpr int64_t kModel = 7168;
constexpr int64_t kExpert = 2048;
constexpr int64_t kExperts = 256;
constexpr int64_t kUsed = 8;
constexpr int64_t kBytes = 3 * kModel * kExpert * 9 / 16;

class BatchSplitTest : public ::testing::Test {
 protected:
  // `tokens` tokens that choose `used` experts each, of which some are liked more than others; of many tokens
  // in all likelihood so many.
  std::vector<int64_t> route(int64_t tokens) {
    std::vector<double> liking;
    for (const float x : random_.normal(kExperts)) liking.push_back(std::exp(0.5 * double{x}));
    const double all = std::accumulate(liking.begin(), liking.end(), 0.0);
    std::vector<int64_t> counts;
    const auto luck = random_.normal(kExperts);
    for (size_t e = 0; e < liking.size(); ++e) {
      const double mean = static_cast<double>(tokens * kUsed) * liking[e] / all;
      const double met = tokens < 64 ? mean + double{random_.uniform(0, 1)} - 0.5 + 0.2 * double{luck[e]}
                                     : mean + std::sqrt(mean) * double{luck[e]};
      counts.push_back(std::clamp(std::llround(met), 0LL, static_cast<long long>(tokens)));
    }
    return counts;
  }

  SplitMachine random_machine() {
    const auto any = [&](float low, float high) {
      return double{std::exp(random_.uniform(std::log(low), std::log(high)))};
    };
    return {.ram_gb_per_s = any(10, 1000),
            .cpu_gops = any(50, 20'000),
            .copy_gb_per_s = any(5, 60),
            .copy_us = any(1, 50),
            .gpu_tflops = any(10, 800)};
  }

  struct Case {
    std::vector<int64_t> tokens;
    std::vector<uint8_t> resident;
    SplitRates rates;

    [[nodiscard]] SplitBatch batch() const {
      return {.tokens = tokens, .resident = resident, .expert_bytes = kBytes};
    }
  };
  Case random_case() {
    const int64_t experts = random_.integer(1, 64);
    Case c{.tokens = {}, .resident = {}, .rates = split_rates(random_machine(), kModel, kExpert)};
    const int64_t most = int64_t{1} << random_.integer(0, 12);
    for (int64_t e = 0; e < experts; ++e) {
      c.tokens.push_back(random_.integer(0, 3) == 0 ? 0 : random_.integer(0, most));
      c.resident.push_back(random_.integer(0, 4) == 0 ? 1 : 0);
    }
    if (random_.integer(0, 1) == 0) c.resident.clear();
    return c;
  }

  static double predicted(const Case& c, SplitMode mode) {
    BatchSplit split(static_cast<int64_t>(c.tokens.size()));
    split.split(c.batch(), c.rates, mode);
    return predict_split(split.work(), c.rates).both();
  }

  // The stream as its header describes it, expert by expert.
  static double stepwise_stream(const BatchSplit& split, const Case& c) {
    double copied = 0;
    double done = 0;
    for (size_t e = 0; e < c.tokens.size(); ++e) {
      if (split.sides()[e] == SplitSide::kResident) {
        done += static_cast<double>(c.tokens[e]) * c.rates.gpu_per_token;
      }
    }
    for (const int32_t e : split.streamed()) {
      copied += static_cast<double>(kBytes) * c.rates.copy_per_byte + c.rates.copy_per_expert;
      done = std::max(done, copied) +
             static_cast<double>(c.tokens[static_cast<size_t>(e)]) * c.rates.gpu_per_token;
    }
    return done;
  }

  // The share of the experts met that a batch of the workstation streams.
  double streamed_share(int64_t tokens, SplitMode mode = SplitMode::kAuto) {
    BatchSplit split(kExperts);
    const auto counts = route(tokens);
    split.split({.tokens = counts, .resident = {}, .expert_bytes = kBytes},
                split_rates(kWorkstation, kModel, kExpert), mode);
    const SplitWork& work = split.work();
    return static_cast<double>(work.copied_experts) /
           static_cast<double>(work.cpu_experts + work.copied_experts);
  }

  testing::Random random_;
};

TEST_F(BatchSplitTest, EveryExpertIsInOnePlace) {
  SCOPED_TRACE(random_.describe());
  BatchSplit split(64);  // reused: nothing of the batch before is left
  for (int trial = 0; trial < 500; ++trial) {
    const Case c = random_case();
    const auto mode = static_cast<SplitMode>(random_.integer(0, 2));
    split.split(c.batch(), c.rates, mode);
    ASSERT_EQ(split.sides().size(), c.tokens.size());
    SplitWork counted{.expert_bytes = kBytes};
    int64_t fewest_streamed = std::numeric_limits<int64_t>::max();
    int64_t most_on_cpu = 0;
    for (size_t e = 0; e < c.tokens.size(); ++e) {
      const bool resident = !c.resident.empty() && c.resident[e] != 0;
      switch (split.sides()[e]) {
        case SplitSide::kNone:
          EXPECT_EQ(c.tokens[e], 0);
          break;
        case SplitSide::kResident:
          EXPECT_TRUE(resident && c.tokens[e] > 0);
          counted.resident_tokens += c.tokens[e];
          break;
        case SplitSide::kCpu:
          EXPECT_TRUE(!resident && c.tokens[e] > 0 && mode != SplitMode::kStream);
          ++counted.cpu_experts;
          counted.cpu_tokens += c.tokens[e];
          most_on_cpu = std::max(most_on_cpu, c.tokens[e]);
          break;
        case SplitSide::kStream:
          EXPECT_TRUE(!resident && c.tokens[e] > 0 && mode != SplitMode::kCpu);
          ++counted.copied_experts;
          counted.copied_tokens += c.tokens[e];
          fewest_streamed = std::min(fewest_streamed, c.tokens[e]);
          break;
      }
    }
    EXPECT_GE(fewest_streamed, most_on_cpu);
    EXPECT_EQ(split.work().cpu_experts, counted.cpu_experts);
    EXPECT_EQ(split.work().cpu_tokens, counted.cpu_tokens);
    EXPECT_EQ(split.work().copied_experts, counted.copied_experts);
    EXPECT_EQ(split.work().copied_tokens, counted.copied_tokens);
    EXPECT_EQ(split.work().resident_tokens, counted.resident_tokens);
    EXPECT_EQ(split.work().last_tokens, counted.copied_experts == 0 ? 0 : fewest_streamed);
    int64_t before = std::numeric_limits<int64_t>::max();
    for (const int32_t e : split.streamed()) {
      EXPECT_EQ(split.sides()[static_cast<size_t>(e)], SplitSide::kStream);
      EXPECT_LE(c.tokens[static_cast<size_t>(e)], before);
      before = c.tokens[static_cast<size_t>(e)];
    }
  }
}

TEST_F(BatchSplitTest, StreamTimeIsThatOfItsSteps) {
  SCOPED_TRACE(random_.describe());
  BatchSplit split(64);
  for (int trial = 0; trial < 500; ++trial) {
    const Case c = random_case();
    split.split(c.batch(), c.rates, static_cast<SplitMode>(random_.integer(0, 2)));
    const double right = stepwise_stream(split, c);
    EXPECT_NEAR(predict_split(split.work(), c.rates).stream, right, 1e-9 * right);
  }
}

TEST_F(BatchSplitTest, NeverWorseThanEitherSideAloneNorFarFromTheBestCut) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 500; ++trial) {
    const Case c = random_case();
    const double chosen = predicted(c, SplitMode::kAuto);
    EXPECT_LE(chosen, predicted(c, SplitMode::kCpu));
    EXPECT_LE(chosen, predicted(c, SplitMode::kStream));
    // Cuts by hand: the first `streamed` of the busiest are streamed, the others computed by the CPU.
    std::vector<int64_t> sorted;
    SplitWork work{.expert_bytes = kBytes};
    for (size_t e = 0; e < c.tokens.size(); ++e) {
      if (!c.resident.empty() && c.resident[e] != 0) {
        work.resident_tokens += c.tokens[e];
      } else if (c.tokens[e] > 0) {
        sorted.push_back(c.tokens[e]);
        ++work.cpu_experts;
        work.cpu_tokens += c.tokens[e];
      }
    }
    std::ranges::sort(sorted, std::greater<>());
    double best = predict_split(work, c.rates).both();
    for (const int64_t tokens : sorted) {
      --work.cpu_experts;
      work.cpu_tokens -= tokens;
      ++work.copied_experts;
      work.copied_tokens += tokens;
      work.last_tokens = tokens;
      best = std::min(best, predict_split(work, c.rates).both());
    }
    EXPECT_GE(chosen, best * (1 - 1e-12));
    EXPECT_LE(chosen, best / 0.95 * (1 + 1e-12));
  }
}

TEST_F(BatchSplitTest, SlowerRatesNeverFinishEarlier) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 200; ++trial) {
    const Case c = random_case();
    const auto grows = [&](double SplitRates::*rate) {
      Case slower = c;
      slower.rates.*rate *= 1 + double{random_.uniform(0, 3)};
      const SplitMode mode = static_cast<SplitMode>(random_.integer(1, 2));
      return predicted(slower, mode) >= predicted(c, mode) * (1 - 1e-12);
    };
    EXPECT_TRUE(grows(&SplitRates::cpu_per_byte));
    EXPECT_TRUE(grows(&SplitRates::cpu_per_token));
    EXPECT_TRUE(grows(&SplitRates::copy_per_byte));
    EXPECT_TRUE(grows(&SplitRates::copy_per_expert));
    EXPECT_TRUE(grows(&SplitRates::gpu_per_token));
  }
}

TEST_F(BatchSplitTest, SlowerProductsOfTheCpuNeverStreamLess) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 100; ++trial) {
    Case c = random_case();
    BatchSplit split(64);
    int64_t before = 0;
    for (int step = 0; step < 30; ++step) {
      split.split(c.batch(), c.rates, SplitMode::kAuto);
      EXPECT_GE(split.work().copied_experts, before);
      before = split.work().copied_experts;
      c.rates.cpu_per_token *= 1.5;
    }
  }
}

// What the two sides are for: the CPU for a decoded token, the stream for a long prompt, both in between.
TEST_F(BatchSplitTest, AWorkstationsBatchesFromOneTokenTo32K) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t tokens : {1, 2, 4}) EXPECT_EQ(streamed_share(tokens), 0) << tokens;
  double before = 0;
  for (const int64_t tokens : {8, 32, 128, 512, 2048}) {
    const double share = streamed_share(tokens);
    EXPECT_GE(share, before - 0.1) << tokens;  // prompts differ
    before = share;
  }
  EXPECT_GT(streamed_share(128), 0.2);
  EXPECT_LT(streamed_share(128), 0.95);
  EXPECT_GT(streamed_share(2048), 0.8);
  EXPECT_GT(streamed_share(32'768), 0.95);
  EXPECT_EQ(streamed_share(1, SplitMode::kStream), 1);
  EXPECT_EQ(streamed_share(2048, SplitMode::kCpu), 0);
}

TEST_F(BatchSplitTest, NothingToDo) {
  BatchSplit split(4);
  const SplitRates rates = split_rates(kWorkstation, kModel, kExpert);
  const std::vector<int64_t> none(4);
  for (const SplitMode mode : {SplitMode::kAuto, SplitMode::kCpu, SplitMode::kStream}) {
    split.split({.tokens = {}, .resident = {}, .expert_bytes = kBytes}, rates, mode);
    EXPECT_TRUE(split.sides().empty());
    split.split({.tokens = none, .resident = {}, .expert_bytes = kBytes}, rates, mode);
    EXPECT_EQ(predict_split(split.work(), rates).both(), 0);
    EXPECT_EQ(std::ranges::count(split.sides(), SplitSide::kNone), 4);
  }
}

TEST(SplitRates, AreThoseOfTheMachine) {
  const SplitRates rates = split_rates(kWorkstation, kModel, kExpert);
  EXPECT_DOUBLE_EQ(rates.cpu_per_byte, 1.0 / 90);
  EXPECT_DOUBLE_EQ(rates.cpu_per_token, 6.0 * 7168 * 2048 / 2000);
  EXPECT_DOUBLE_EQ(rates.copy_per_byte, 1.0 / 55);
  EXPECT_DOUBLE_EQ(rates.copy_per_expert, 10'000);
  EXPECT_DOUBLE_EQ(rates.gpu_per_token, 6.0 * 7168 * 2048 / 100'000);
  SplitMachine wrong = kWorkstation;
  wrong.copy_gb_per_s = 0;
  EXPECT_EQ(testing::error_text([&] { return split_rates(wrong, kModel, kExpert); }),
            "the machine's GB/s of copies to the GPU: expected a positive number, found 0");
  wrong = kWorkstation;
  wrong.cpu_gops = std::nan("");
  EXPECT_EQ(testing::error_text([&] { return split_rates(wrong, kModel, kExpert); }),
            "the machine's CPU GOPS: expected a positive number, found nan");
}

/// A machine that is not as the profile says: layers take what its own rates say, more or less.
class LearnerTest : public BatchSplitTest {
 protected:
  struct Outcome {
    double took = 0;  // what was chosen
    double best_forced = 0;
    bool probed = false;
  };

  Outcome layer(SplitLearner& learner, const SplitRates& truth, int64_t tokens, double noise = 0) {
    const auto counts = route(tokens);
    const SplitBatch batch{
        .tokens = counts, .resident = {}, .expert_bytes = kBytes, .probe = learner.probe()};
    const auto takes = [&](SplitMode mode) {
      split_.split(batch, learner.rates(), mode);
      return predict_split(split_.work(), truth);
    };
    const double forced = std::min(takes(SplitMode::kCpu).both(), takes(SplitMode::kStream).both());
    SplitTimes times = takes(SplitMode::kAuto);
    const double took = times.both();
    times.cpu *= 1 + noise * double{random_.uniform(-1, 1)};
    times.stream *= 1 + noise * double{random_.uniform(-1, 1)};
    learner.learn(split_.work(), times);
    return {.took = took, .best_forced = forced, .probed = batch.probe};
  }

  BatchSplit split_{kExperts};
  const SplitRates start_ = split_rates(kWorkstation, kModel, kExpert);
};

// Every rate three times too high or too low, at every size: after eight layers hardly anything is lost to
// either side alone.
TEST_F(LearnerTest, FindsOutWrongRatesWithinAFewLayers) {
  SCOPED_TRACE(random_.describe());
  double SplitRates::*const rates[] = {&SplitRates::cpu_per_byte, &SplitRates::cpu_per_token,
                                       &SplitRates::copy_per_byte, &SplitRates::gpu_per_token};
  for (double SplitRates::*const rate : rates) {
    for (const double wrong : {1.0 / 3, 3.0}) {
      for (const int64_t tokens : {8, 32, 128, 512, 2048}) {
        SplitRates truth = start_;
        truth.*rate *= wrong;
        SplitLearner learner(start_);
        for (int i = 0; i < 8; ++i) layer(learner, truth, tokens, 0.03);
        for (int i = 0; i < 8; ++i) {
          const Outcome outcome = layer(learner, truth, tokens, 0.03);
          EXPECT_LE(outcome.took, (outcome.probed ? 1.3 : 1.15) * outcome.best_forced)
              << "rate " << (std::ranges::find(rates, rate) - std::begin(rates)) << " times " << wrong << ", "
              << tokens << " tokens, layer " << 8 + i;
        }
      }
    }
  }
}

TEST_F(LearnerTest, PredictsWhatIsMeasuredAfterAFewLayers) {
  SCOPED_TRACE(random_.describe());
  SplitRates truth = start_;
  truth.cpu_per_byte *= 2;
  truth.cpu_per_token *= 0.7;
  truth.copy_per_byte *= 1.5;
  SplitLearner learner(start_);
  for (int i = 0; i < 12; ++i) layer(learner, truth, 256);
  const SplitTimes learnt = predict_split(split_.work(), learner.rates());
  const SplitTimes right = predict_split(split_.work(), truth);
  EXPECT_NEAR(learnt.cpu, right.cpu, 0.1 * right.cpu);
  EXPECT_NEAR(learnt.stream, right.stream, 0.1 * right.stream);
}

TEST_F(LearnerTest, OneOutlierChangesNothing) {
  SCOPED_TRACE(random_.describe());
  SplitLearner learner(start_);
  for (int i = 0; i < 5; ++i) layer(learner, start_, 512);
  SplitTimes times = predict_split(split_.work(), start_);
  for (const double outlier : {1000.0, 1e-3}) {
    learner.learn(split_.work(), {.cpu = times.cpu * outlier, .stream = times.stream * outlier});
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(learner.rates().cpu_per_byte, start_.cpu_per_byte, 1e-9 * start_.cpu_per_byte);
      EXPECT_NEAR(learner.rates().copy_per_byte, start_.copy_per_byte, 1e-9 * start_.copy_per_byte);
      layer(learner, start_, 512);
    }
  }
}

TEST_F(LearnerTest, RatesStayWithinBoundsWhateverIsMeasured) {
  SCOPED_TRACE(random_.describe());
  SplitLearner learner(start_);
  const double odd[] = {0, -1, 1e-300, 1e300, std::nan(""), std::numeric_limits<double>::infinity()};
  const auto any = [&] { return odd[random_.integer(0, 5)]; };
  for (int i = 0; i < 300; ++i) {
    BatchSplit split(kExperts);
    const auto counts = route(random_.integer(1, 40));
    split.split({.tokens = counts, .resident = {}, .expert_bytes = kBytes}, learner.rates(),
                static_cast<SplitMode>(random_.integer(0, 2)));
    learner.learn(split.work(), {.cpu = any(), .stream = any()});
    for (double SplitRates::*const rate : {&SplitRates::cpu_per_byte, &SplitRates::cpu_per_token,
                                           &SplitRates::copy_per_byte, &SplitRates::gpu_per_token}) {
      const double factor = learner.rates().*rate / (start_.*rate);
      EXPECT_GE(factor, 1.0 / 16.01);
      EXPECT_LE(factor, 16.01);
    }
  }
}

// A side was slow for a while, as another program used the machine, and was given up: it is tried again.
TEST_F(LearnerTest, AStreamThatIsNotUsedIsGivenAnotherChance) {
  SCOPED_TRACE(random_.describe());
  SplitRates busy = start_;
  busy.copy_per_byte *= 14;
  SplitLearner learner(start_);
  const int64_t few = 16;  // tokens
  for (int i = 0; i < 40; ++i) layer(learner, busy, few);
  EXPECT_GT(learner.rates().copy_per_byte, 4 * start_.copy_per_byte);
  for (int i = 0; i < 6 * 16; ++i) layer(learner, start_, few);
  EXPECT_NEAR(learner.rates().copy_per_byte, start_.copy_per_byte, 0.3 * start_.copy_per_byte);
}

TEST_F(LearnerTest, ACpuThatIsNotUsedIsGivenAnotherChance) {
  SCOPED_TRACE(random_.describe());
  SplitRates busy = start_;
  busy.cpu_per_token *= 14;
  SplitLearner learner(start_);
  const auto counts = route(2048);
  const auto share = [&] {
    split_.split({.tokens = counts, .resident = {}, .expert_bytes = kBytes}, learner.rates(),
                 SplitMode::kAuto);
    return split_.work().cpu_experts;
  };
  const int64_t before = share();
  for (int i = 0; i < 40; ++i) layer(learner, busy, 2048);
  EXPECT_EQ(share(), 0);
  for (int i = 0; i < 6 * 16; ++i) layer(learner, start_, 2048);
  EXPECT_GE(share(), before / 2);
  EXPECT_GT(before, 1);
}

TEST(SureExperts, AreThoseThatEveryPassMeets) {
  EXPECT_EQ(sure_experts(256, 2048, 256, true), 256);
  EXPECT_EQ(sure_experts(256, 2047, 256, true), 0) << "too few choices";
  EXPECT_EQ(sure_experts(256, 4096, 255, false), 127) << "the CPU had a share";
  EXPECT_EQ(sure_experts(256, 4096, 256, false), 128) << "the CPU may get one";
  EXPECT_EQ(sure_experts(256, 4096, 0, false), 0);
}

// After a pass that was the stream's alone, as a long prompt's is: were all copied ahead the CPU would get
// none in this layer, nor, for that reason, in the next.
TEST(SureExperts, LeaveAChoiceAfterLayersOfTheStreamAlone) {
  const std::vector<int64_t> tokens(kExperts, 16);
  const auto cpus_share = [&](bool whole) {
    std::vector<uint8_t> here(kExperts, 0);
    std::fill_n(here.begin(), sure_experts(kExperts, 16 * kExperts, kExperts, whole), uint8_t{1});
    BatchSplit split(kExperts);
    split.split({.tokens = tokens, .resident = here, .expert_bytes = kBytes},
                split_rates(kWorkstation, kModel, kExpert), SplitMode::kAuto);
    return split.work().cpu_experts;
  };
  EXPECT_EQ(cpus_share(true), 0);
  EXPECT_GT(cpus_share(false), 0);
}

}  // namespace
}  // namespace sluice::offload
