// A model whose layers two backends compute: two CPU backends give what one gives, bit by bit; recording ones
// show what crosses.
#include "engine/backends/split_backend.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "engine/backends/chosen_backend.h"
#include "engine/backends/cpu_backend.h"
#include "engine/backends/split_cache.h"
#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "engine/synth/presets.h"
#include "offload/machine.h"
#include "support/compare.h"
#include "support/golden_forward.h"
#include "support/golden_model.h"
#include "support/random_tensors.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

constexpr int64_t kContext = 96;
constexpr int64_t kTokens = 70;  // past the index top-k of 32

MakeBackend split_at(int64_t border) {
  return [border](const BackendSources& from) {
    const auto half = [&](LayerRange layers) {
      return std::make_unique<CpuBackend>(from.model, from.options, layers, from.weights.panels(), from.isa,
                                          from.workers);
    };
    const ModelConfig& config = from.model.config();
    return std::make_unique<SplitBackend>(config, border, half({0, border}), half({border, config.layers}));
  };
}

/// What an observer sees, in order.
class Seen : public ForwardObserver {
 public:
  void embedding(int64_t, MatrixView<const float> x) override { keep("embedding", x); }
  void attention_output(int64_t layer, int64_t, MatrixView<const float> x) override {
    keep(fmt::format("attention {}", layer), x);
  }
  void routes(int64_t layer, int64_t, const offload::Routes& routes) override {
    keep(fmt::format("routes {}", layer), routes.weights);
  }
  void layer_output(int64_t layer, int64_t, MatrixView<const float> x) override {
    keep(fmt::format("layer {}", layer), x);
  }
  void final_norm(int64_t, MatrixView<const float> x) override { keep("norm", x); }

  std::vector<std::string> names;
  std::vector<float> values;

 private:
  void keep(const std::string& name, MatrixView<const float> x) {
    names.push_back(name);
    for (int64_t r = 0; r < x.rows; ++r) values.insert(values.end(), x.row(r).begin(), x.row(r).end());
  }
};

class Split : public ::testing::Test {
 protected:
  Split()
      : model_(synth::open_model(synth::parse_model_spec(fmt::format(
                                     "synth:tiny,dense=2,moe=2,type=q8_0,seed={}", random_.integer(0, 999))),
                                 {})),
        ids_(static_cast<size_t>(kTokens)) {
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, model_.config().vocab_size - 1));
    }
  }

  LoadedWeights load(const RuntimeOptions& options) {
    offload::Workers workers(2);
    return {model_, options, offload::probe_machine(), workers};
  }

  /// Of every position.
  std::vector<float> logits(Runtime& runtime, ForwardObserver* observer = nullptr) {
    const auto cache = runtime.make_cache(kContext, CacheType::kBF16);
    std::vector<float> all;
    const int64_t batch = runtime.options().max_batch;
    for (int64_t first = 0; first < kTokens; first += batch) {
      const auto n = static_cast<size_t>(std::min(batch, kTokens - first));
      const MatrixView<const float> rows =
          runtime
              .forward({.ids = std::span(ids_).subspan(static_cast<size_t>(first), n),
                        .first_position = first,
                        .logits = Logits::kAll,
                        .observer = observer,
                        .stop = {}},
                       *cache)
              .logits;
      all.insert(all.end(), rows.data, rows.data + rows.rows * rows.cols);
    }
    return all;
  }

  testing::Random random_;
  Model model_;
  std::vector<int32_t> ids_;
};

TEST_F(Split, AnywhereIsTheWholeBitByBit) {
  SCOPED_TRACE(random_.describe());
  for (const Activations activations : {Activations::kInt8, Activations::kFloat32}) {
    for (const int64_t batch : {1, 32}) {
      const RuntimeOptions options{.threads = 2, .max_batch = batch, .activations = activations};
      const LoadedWeights weights = load(options);
      Runtime whole(weights, options);
      const std::vector<float> expected = logits(whole);
      for (int64_t border = 1; border <= model_.config().layers; ++border) {
        Runtime split(weights, options, split_at(border));
        EXPECT_TRUE(testing::identical(logits(split), expected)) << "border " << border;
      }
    }
  }
}

TEST_F(Split, ObserversSeeTheStreamOnBothSides) {
  SCOPED_TRACE(random_.describe());
  const RuntimeOptions options{.threads = 2, .max_batch = 32};
  const LoadedWeights weights = load(options);
  Seen expected;
  Runtime whole(weights, options);
  logits(whole, &expected);
  for (int64_t border = 1; border <= model_.config().layers; ++border) {
    Seen seen;
    Runtime split(weights, options, split_at(border));
    logits(split, &seen);
    EXPECT_EQ(seen.names, expected.names);
    EXPECT_TRUE(testing::identical(seen.values, expected.values)) << "border " << border;
  }
}

TEST_F(Split, SessionsMoveBetweenPlacements) {
  SCOPED_TRACE(random_.describe());
  const testing::TemporaryDirectory directory;
  const RuntimeOptions options{.threads = 2, .max_batch = 32};
  const LoadedWeights weights = load(options);
  Runtime whole(weights, options);
  Runtime early(weights, options, split_at(1));
  Runtime late(weights, options, split_at(3));
  for (const CacheType type : {CacheType::kF32, CacheType::kFp8Int8}) {
    Session there(early, kContext, type);
    there.prefill(ids_);
    there.save(directory / "session");
    there.append(3);
    for (Runtime* const runtime : {&whole, &early, &late}) {
      Session here(*runtime, kContext, type);
      EXPECT_EQ(here.cache().bytes(), there.cache().bytes());
      here.load(directory / "session");
      here.append(3);
      EXPECT_TRUE(testing::identical(here.logits(), there.logits()));
    }
    Session alone(whole, kContext, type);
    alone.prefill(ids_);
    alone.save(directory / "alone");
    Session back(late, kContext, type);
    back.load(directory / "alone");
    back.append(3);
    EXPECT_TRUE(testing::identical(back.logits(), there.logits()));
  }
}

TEST_F(Split, AStoppedPassLeavesNothingBehind) {
  SCOPED_TRACE(random_.describe());
  const RuntimeOptions options{.threads = 2, .max_batch = 32};
  const LoadedWeights weights = load(options);
  Runtime split(weights, options, split_at(2));
  const std::vector<float> expected = logits(split);
  std::stop_source stop;
  stop.request_stop();
  const auto cache = split.make_cache(kContext, CacheType::kBF16);
  EXPECT_FALSE(split.forward({.ids = std::span(ids_).first(5), .stop = stop.get_token()}, *cache).completed);
  EXPECT_TRUE(testing::identical(logits(split), expected));
}

class SplitGolden : public ::testing::TestWithParam<int64_t> {};

// Of six layers.
TEST_P(SplitGolden, LogitsHiddenStatesRoutesAndSelections) {
  SLUICE_NEEDS_TINY_MODEL();
  const Model& model = testing::golden_model();
  offload::Workers workers(2);
  const LoadedWeights weights(model, {}, offload::probe_machine(), workers);
  ASSERT_LE(GetParam(), model.config().layers);
  Runtime runtime(weights, {}, split_at(GetParam()));
  testing::expect_golden(runtime, "t300");
}

INSTANTIATE_TEST_SUITE_P(Borders, SplitGolden, ::testing::Values(1, 4, 6));

/// Writes down what is asked of it.
class Recorder final : public Backend {
 public:
  Recorder(std::string name, const ModelConfig& config, LayerRange layers, std::vector<std::string>& calls)
      : name_(std::move(name)),
        config_(config),
        layers_(layers),
        calls_(calls),
        x_(static_cast<size_t>(kContext * config.d_model)) {}

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override {
    return std::make_unique<CpuCache>(config_, layers_, capacity, type);
  }
  void embed(const Batch& batch) override {
    note("embed", batch);
    x_[0] = 1;
  }
  void resume(const Batch& batch, MatrixView<const float> x) override {
    note(batch.n_tokens() == 1 ? "resume one" : "resume", batch);
    x_[0] = x.row(0)[0];
  }
  void keep_last_token(int64_t layer, const Batch& batch) override {
    note(fmt::format("keep {}", layer), batch);
    x_[0] = 5;
  }
  void attention(int64_t layer, const Batch& batch) override {
    EXPECT_TRUE(layers_.has(layer));
    note(fmt::format("attention {}", layer), batch);
  }
  void dense_ffn(int64_t layer, int64_t) override { note(fmt::format("dense {}", layer)); }
  [[nodiscard]] bool computes_experts(int64_t layer) const override { return layer % 2 == 1; }
  std::optional<Routed> routed_ffn(int64_t layer, const Batch& batch) override {
    note(fmt::format("routed {}", layer), batch);
    return {};
  }
  Routed route(int64_t layer, int64_t) override {
    note(fmt::format("route {}", layer));
    return {};
  }
  void finish_experts(int64_t layer, int64_t) override {
    x_[0] += 1;
    note(fmt::format("finish {}", layer));
  }
  MatrixView<const float> residual(int64_t n) override { return {x_.data(), n, config_.d_model}; }
  void final_norm(RowRange rows) override { note(fmt::format("norm {}+{}", rows.begin, rows.count)); }
  void head(RowRange, MatrixView<float>) override { note("head"); }
  void give_up_pass() override { note("give up"); }
  void correct_times(LayerTimes& times) override { times.moe_ns = 7; }

 private:
  void note(const std::string& what) { calls_.push_back(name_ + " " + what); }
  void note(const std::string& what, const Batch& batch) {
    EXPECT_EQ(batch.cache->layers(), layers_) << what;
    note(what);
  }

  std::string name_;
  const ModelConfig& config_;
  LayerRange layers_;
  std::vector<std::string>& calls_;
  std::vector<float> x_;
};

class SplitCalls : public ::testing::Test {
 protected:
  void make(int64_t border) {
    config_ = synth::preset_config(synth::Preset::kTiny);
    config_.layers = 4;
    split_.emplace(config_, border,
                   std::make_unique<Recorder>("first", config_, LayerRange{0, border}, calls_),
                   std::make_unique<Recorder>("rest", config_, LayerRange{border, 4}, calls_));
    cache_ = split_->make_cache(kContext, CacheType::kF32);
    batch_ = {.ids = ids_, .cache = cache_.get()};
  }

  // A pass as Runtime makes it, with one MoE layer's experts with the caller.
  void pass(bool narrows = false) {
    Batch batch = batch_;
    batch.narrows = narrows;
    split_->embed(batch);
    for (int64_t layer = 0; layer < 4; ++layer) {
      if (layer == 3 && narrows) {
        split_->keep_last_token(layer, batch);
        batch = batch.last_token();
      }
      split_->attention(layer, batch);
      if (layer == 0) {
        split_->dense_ffn(layer, batch.n_tokens());
      } else if (split_->computes_experts(layer)) {
        static_cast<void>(split_->routed_ffn(layer, batch));
      } else {
        static_cast<void>(split_->route(layer, batch.n_tokens()));
        split_->finish_experts(layer, batch.n_tokens());
      }
    }
    split_->final_norm({batch.n_tokens() - 1, 1});
    split_->head({batch.n_tokens() - 1, 1}, {});
  }

  ModelConfig config_;
  std::vector<std::string> calls_;
  std::vector<int32_t> ids_{1, 2};
  std::optional<SplitBackend> split_;
  std::unique_ptr<KvCache> cache_;
  Batch batch_;
};

TEST_F(SplitCalls, TheStreamCrossesOnceWhereTheLayersDo) {
  make(3);
  pass();
  const std::vector<std::string> expected{
      "first embed",       "first attention 0", "first dense 0",  "first attention 1", "first routed 1",
      "first attention 2", "first route 2",     "first finish 2", "rest resume",       "rest attention 3",
      "rest routed 3",     "rest norm 1+1",     "rest head"};
  EXPECT_EQ(calls_, expected);
  EXPECT_EQ(split_->residual(2).row(0)[0], 2) << "what the first left was not taken over";
}

TEST_F(SplitCalls, AHeadAloneIsResumedBeforeItsNorm) {
  make(4);
  for (int i = 0; i < 2; ++i) {
    calls_.clear();
    pass();
    ASSERT_GE(calls_.size(), 3U);
    EXPECT_EQ(std::vector(calls_.end() - 3, calls_.end()),
              (std::vector<std::string>{"rest resume", "rest norm 1+1", "rest head"}));
    EXPECT_EQ(std::ranges::count(calls_, "rest resume"), 1);
  }
}

TEST_F(SplitCalls, TheLastTokenIsKeptWhereTheLastLayerIs) {
  const auto last = [&](int64_t border, std::ptrdiff_t count) {
    make(border);
    calls_.clear();
    pass(true);
    return std::vector(calls_.end() - count, calls_.end());
  };
  EXPECT_EQ(last(2, 6), (std::vector<std::string>{"rest finish 2", "rest keep 3", "rest attention 3",
                                                  "rest routed 3", "rest norm 0+1", "rest head"}));
  EXPECT_EQ(last(3, 6), (std::vector<std::string>{"rest resume", "rest keep 3", "rest attention 3",
                                                  "rest routed 3", "rest norm 0+1", "rest head"}))
      << "all tokens cross";
  EXPECT_EQ(last(4, 6), (std::vector<std::string>{"first keep 3", "first attention 3", "first routed 3",
                                                  "rest resume one", "rest norm 0+1", "rest head"}))
      << "one token crosses";
  EXPECT_EQ(split_->residual(1).row(0)[0], 5);
}

TEST_F(SplitCalls, BothAreGivenUpAndTimesAreTheSecondsOnes) {
  make(2);
  split_->give_up_pass();
  EXPECT_EQ(calls_, (std::vector<std::string>{"first give up", "rest give up"}));
  LayerTimes times{.dense_ns = 5};
  split_->correct_times(times);
  EXPECT_EQ(times.dense_ns, 5);
  EXPECT_EQ(times.moe_ns, 7);
}

TEST_F(SplitCalls, RowsLieWhereTheirLayerIs) {
  make(3);
  const auto& both = dynamic_cast<const SplitCache&>(*cache_);
  EXPECT_EQ(both.layers(), (LayerRange{0, 4}));
  EXPECT_EQ(both.bytes(), both.first().bytes() + both.rest().bytes());
  std::vector<std::byte> rows(static_cast<size_t>(cache_->row_bytes(CachePart::kLatent)));
  for (int64_t layer = 0; layer < 4; ++layer) {
    std::ranges::fill(rows, std::byte(layer + 1));
    cache_->copy_in(CachePart::kLatent, layer, rows);
  }
  for (int64_t layer = 0; layer < 4; ++layer) {
    (layer < 3 ? both.first() : both.rest()).copy_out(CachePart::kLatent, layer, rows);
    EXPECT_EQ(rows.back(), std::byte(layer + 1));
    cache_->copy_out(CachePart::kLatent, layer, rows);
    EXPECT_EQ(rows.front(), std::byte(layer + 1));
  }
}

}  // namespace
}  // namespace sluice
