// The sampler's choice from candidates against its choice from all logits, and sessions whose backend gives
// candidates.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "engine/backends/chosen_backend.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"
#include "quant/base/error.h"
#include "support/compare.h"
#include "support/logit_candidates.h"
#include "support/random_tensors.h"

namespace sluice {
namespace {

using testing::candidates_of;

/// Smooth, in steps that make ties, peaked, flat, with tokens that are never drawn.
std::vector<float> random_logits(testing::Random& random) {
  const int64_t n = random.integer(0, 3) == 0 ? random.integer(1, 60) : random.integer(1000, 6000);
  std::vector<float> logits =
      random.normal(n, static_cast<float>(random.integer(1, 12)) / static_cast<float>(random.integer(1, 4)));
  const int64_t kind = random.integer(0, 4);
  for (float& logit : logits) {
    if (kind == 1) logit = std::round(logit * 4) / 4;
    if (kind == 2 && random.integer(0, 20) == 0) logit += 12;
    if (kind == 3) logit *= 1e-3F;
    if (kind == 4 && random.integer(0, 9) == 0) logit = -std::numeric_limits<float>::infinity();
  }
  logits[static_cast<size_t>(random.integer(0, n - 1))] = 3.5F;  // not all are -inf
  return logits;
}

SamplingParams random_params(testing::Random& random) {
  constexpr float kTopP[] = {1.0F, 0.95F, 0.5F, 0.999F, 0.05F, 0.0F};
  constexpr float kMinP[] = {0.0F, 0.0F, 0.05F, 0.6F, 1.0F};
  constexpr int64_t kTopK[] = {0, 0, 0, 1, 7, 40, 1024, 1025};
  constexpr float kTemperature[] = {0.0F, 0.6F, 1.0F, 1.0F, 2.5F, 0.01F};
  const auto any = [&](const auto& of) {
    return of[static_cast<size_t>(random.integer(0, static_cast<int64_t>(std::size(of)) - 1))];
  };
  return {.temperature = any(kTemperature),
          .top_k = any(kTopK),
          .top_p = any(kTopP),
          .min_p = any(kMinP),
          .seed = static_cast<uint64_t>(random.integer(0, 1'000'000))};
}

TEST(SamplerCandidates, ChooseWhatAllLogitsChoose) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  int64_t decided = 0;
  int64_t undecided = 0;
  int64_t refused = 0;
  for (int round = 0; round < 600; ++round) {
    const SamplingParams params = random_params(random);
    Sampler whole(params);
    Sampler part(params);
    for (int step = 0; step < 6; ++step) {
      const std::vector<float> logits = random_logits(random);
      const int32_t expected = whole.sample(logits, {});
      const std::optional<CandidateRequest> request = part.request();
      std::optional<int32_t> found;
      if (request.has_value()) {
        ASSERT_LE(request->count, kMostCandidateTokens);
        found = part.sample(candidates_of(logits, *request));
        ++(found.has_value() ? decided : undecided);
      } else {
        ++refused;
      }
      // What candidates do not decide leaves the random numbers where they were.
      ASSERT_EQ(found.has_value() ? *found : part.sample(logits, {}), expected)
          << fmt::format("temperature {}, top-k {}, top-p {}, min-p {}, {} logits, step {}",
                         params.temperature, params.top_k, params.top_p, params.min_p, logits.size(), step);
    }
  }
  EXPECT_GT(decided, 1500);
  EXPECT_GT(undecided, 30);
  EXPECT_GT(refused, 100);
}

// Temperatures at which many tokens weigh nearly the same: the cut is next to those that are not there.
TEST(SamplerCandidates, CutsNearTheLastCandidate) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  int64_t decided = 0;
  int64_t undecided = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<float> logits(3000);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = -static_cast<float>(i) * 1e-3F;
    std::rotate(logits.begin(), logits.begin() + random.integer(0, 2999), logits.end());
    // The best 1024 are 67 % of all.
    const SamplingParams params{.temperature = 1.0F,
                                .top_p = static_cast<float>(random.integer(630, 690)) * 1e-3F,
                                .seed = static_cast<uint64_t>(round)};
    Sampler whole(params);
    Sampler part(params);
    const int32_t expected = whole.sample(logits, {});
    const auto found = part.sample(candidates_of(logits, part.request().value()));
    ++(found.has_value() ? decided : undecided);
    ASSERT_EQ(found.has_value() ? *found : part.sample(logits, {}), expected) << params.top_p;
  }
  EXPECT_GT(decided, 50);
  EXPECT_GT(undecided, 50);
}

TEST(SamplerCandidates, AreRefusedWhereAllLogitsCount) {
  EXPECT_FALSE(Sampler({.repeat_penalty = 1.1F}).request().has_value());
  EXPECT_FALSE(Sampler({.temperature = 0, .repeat_penalty = 1.1F}).request().has_value());
  EXPECT_TRUE(Sampler({.repeat_penalty = 1.1F, .repeat_last_n = 0}).request().has_value());
  EXPECT_FALSE(Sampler({.top_k = kMostCandidateTokens + 1}).request().has_value());
  EXPECT_FALSE(Sampler({.top_p = 1}).request().has_value());
  EXPECT_TRUE(Sampler({.top_p = 1, .min_p = 0.1F}).request().has_value());
  EXPECT_EQ(Sampler({.temperature = 0}).request().value().count, 1);
}

/// The CPU's, with candidates as a GPU gives them.
class Giving final : public Backend {
 public:
  Giving(const BackendSources& from, int64_t& given, int64_t& read)
      : cpu_(chosen_backend(from)),
        given_(given),
        read_(read),
        logits_(static_cast<size_t>(from.model.config().vocab_size)) {}

  std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override {
    return cpu_->make_cache(capacity, type);
  }
  void embed(const Batch& batch) override { cpu_->embed(batch); }
  void resume(const Batch& batch, MatrixView<const float> x) override { cpu_->resume(batch, x); }
  void keep_last_token(int64_t layer, const Batch& batch) override { cpu_->keep_last_token(layer, batch); }
  void attention(int64_t layer, const Batch& batch) override { cpu_->attention(layer, batch); }
  void dense_ffn(int64_t layer, int64_t n_tokens) override { cpu_->dense_ffn(layer, n_tokens); }
  Routed route(int64_t layer, int64_t n_tokens) override { return cpu_->route(layer, n_tokens); }
  void finish_experts(int64_t layer, int64_t n_tokens) override { cpu_->finish_experts(layer, n_tokens); }
  MatrixView<const float> residual(int64_t n_tokens) override { return cpu_->residual(n_tokens); }
  void final_norm(RowRange rows) override { cpu_->final_norm(rows); }
  void head(RowRange rows, MatrixView<float> logits) override { cpu_->head(rows, logits); }
  std::optional<LogitCandidates> candidates(int64_t row, const CandidateRequest& request) override {
    head({row, 1}, {logits_.data(), 1, static_cast<int64_t>(logits_.size())});
    ++given_;
    return candidates_of(logits_, request);
  }
  void read_logits(std::span<float> logits) override {
    ++read_;
    std::ranges::copy(logits_, logits.begin());
  }

 private:
  std::unique_ptr<Backend> cpu_;
  int64_t& given_;
  int64_t& read_;
  std::vector<float> logits_;
};

class SessionCandidates : public ::testing::Test {
 protected:
  SessionCandidates()
      : model_(synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0"), {})),
        workers_(1),
        weights_(model_, options_, offload::probe_machine(), workers_),
        plain_(weights_, options_),
        giving_(weights_, options_, [this](const BackendSources& from) {
          return std::make_unique<Giving>(from, given_, read_);
        }) {}

  struct Text {
    std::vector<int32_t> ids;
    std::vector<float> logits;  // at the end
  };
  static Text text(Runtime& runtime, const SamplingParams& params) {
    Session session(runtime, 96, CacheType::kF32);
    const std::vector<int32_t> prompt{5, 9, 2};
    session.prefill(prompt);
    Sampler sampler(params);
    Text text;
    // In two calls: the second one begins with the logits that the first one left.
    GenerateOptions options;
    options.ignore_eos = true;
    for (const int64_t tokens : {20, 12}) {
      options.max_tokens = tokens;
      const GenerateReport report = session.generate(sampler, options);
      text.ids.insert(text.ids.end(), report.ids.begin(), report.ids.end());
    }
    text.logits.assign(session.logits().begin(), session.logits().end());
    return text;
  }

  RuntimeOptions options_{.threads = 1};
  Model model_;
  offload::Workers workers_;
  LoadedWeights weights_;
  int64_t given_ = 0;
  int64_t read_ = 0;
  Runtime plain_;
  Runtime giving_;
};

TEST_F(SessionCandidates, TextsAreTheSame) {
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0}, SamplingParams{.temperature = 0.7F, .top_k = 40, .seed = 7},
        SamplingParams{.temperature = 1.0F, .top_p = 0.9F, .seed = 8},
        SamplingParams{.temperature = 3.0F, .top_p = 0.999F, .seed = 9},
        SamplingParams{.temperature = 1.0F, .top_p = 1.0F, .seed = 10},
        SamplingParams{.temperature = 0.9F, .repeat_penalty = 1.2F, .seed = 11}}) {
    given_ = read_ = 0;
    const Text expected = text(plain_, params);
    const Text found = text(giving_, params);
    EXPECT_EQ(found.ids, expected.ids) << params.seed;
    EXPECT_TRUE(testing::identical(found.logits, expected.logits)) << params.seed;
    const bool gives = Sampler(params).request().has_value();
    EXPECT_EQ(given_, gives ? 30 : 0) << params.seed;  // the last token of a call is not computed
    EXPECT_GE(read_, gives ? 2 : 0);
  }
}

TEST_F(SessionCandidates, AnExceptionLeavesNoLogits) {
  Session session(giving_, 96, CacheType::kF32);
  const std::vector<int32_t> prompt{5, 9, 2};
  session.prefill(prompt);
  Sampler sampler({.temperature = 0});
  int tokens = 0;
  GenerateOptions options;
  options.ignore_eos = true;
  options.on_token = [&](int32_t) {
    if (++tokens == 3) throw std::runtime_error("the terminal is gone");
    return true;
  };
  EXPECT_THROW(session.generate(sampler, options), std::runtime_error);
  EXPECT_THROW(static_cast<void>(session.logits()), Error);
  const std::vector<int32_t> same(session.tokens().begin(), session.tokens().end());
  EXPECT_EQ(session.prefill(same).cached, static_cast<int64_t>(same.size()) - 1);
  EXPECT_FALSE(session.logits().empty());
}

}  // namespace
}  // namespace sluice
