// A pass in which the backend fails: the error says what a GPU was computing, and the pass is given up.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/backends/chosen_backend.h"
#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"
#include "quant/base/error.h"
#include "support/compare.h"
#include "support/error_text.h"

namespace sluice {
namespace {

/// Fails in the attention of layer 1.
class Failing final : public Backend {
 public:
  Failing(const ModelConfig& config, std::string place, int& given_up)
      : config_(config), place_(std::move(place)), given_up_(given_up) {}

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override {
    return std::make_unique<CpuCache>(config_, capacity, type);
  }
  void embed(const Batch&) override {}
  void resume(const Batch&, MatrixView<const float>) override {}
  void keep_last_token(int64_t, const Batch&) override {}
  void attention(int64_t layer, const Batch&) override {
    if (layer == 1) throw Error("a kernel", "success", "an illegal address");
  }
  void dense_ffn(int64_t, int64_t) override {}
  Routed route(int64_t, int64_t) override { return {}; }
  void finish_experts(int64_t, int64_t) override {}
  MatrixView<const float> residual(int64_t) override { return {}; }
  void final_norm(RowRange) override {}
  void head(RowRange, MatrixView<float>) override {}
  void give_up_pass() override { ++given_up_; }
  [[nodiscard]] std::string failed_in() const override { return place_; }

 private:
  const ModelConfig& config_;
  std::string place_;
  int& given_up_;
};

/// A CPU backend whose next attention block of layer 1 fails when it is told so.
class FailingOnce final : public Backend {
 public:
  FailingOnce(std::unique_ptr<Backend> backend, const bool& fails)
      : backend_(std::move(backend)), fails_(fails) {}

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override {
    return backend_->make_cache(capacity, type);
  }
  void embed(const Batch& batch) override { backend_->embed(batch); }
  void resume(const Batch& batch, MatrixView<const float> x) override { backend_->resume(batch, x); }
  void keep_last_token(int64_t layer, const Batch& batch) override {
    backend_->keep_last_token(layer, batch);
  }
  void attention(int64_t layer, const Batch& batch) override {
    backend_->attention(layer, batch);  // its cache rows are written
    if (layer == 1 && fails_) throw Error("a kernel", "success", "out of memory");
  }
  void dense_ffn(int64_t layer, int64_t n) override { backend_->dense_ffn(layer, n); }
  Routed route(int64_t layer, int64_t n) override { return backend_->route(layer, n); }
  void finish_experts(int64_t layer, int64_t n) override { backend_->finish_experts(layer, n); }
  MatrixView<const float> residual(int64_t n) override { return backend_->residual(n); }
  void final_norm(RowRange rows) override { backend_->final_norm(rows); }
  void head(RowRange rows, MatrixView<float> logits) override { backend_->head(rows, logits); }

 private:
  std::unique_ptr<Backend> backend_;
  const bool& fails_;
};

std::string error_with(const std::string& place, int& given_up) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0"), {});
  offload::Workers workers(1);
  const RuntimeOptions options{.threads = 1};
  const LoadedWeights weights(model, options, offload::probe_machine(), workers);
  Runtime runtime(weights, options, [&](const BackendSources& from) {
    return std::make_unique<Failing>(from.model.config(), place, given_up);
  });
  const auto cache = runtime.make_cache(8, CacheType::kF32);
  const int32_t id = 1;
  return testing::error_text([&] { return runtime.forward({.ids = {&id, 1}, .stop = {}}, *cache); });
}

TEST(FailedPass, SaysWhatAGpuWasComputing) {
  int given_up = 0;
  EXPECT_EQ(error_with("attention of layer 1", given_up),
            "a kernel: expected success, found an illegal address; the last block that began on the GPU: "
            "attention of layer 1");
  EXPECT_EQ(given_up, 1);
}

TEST(FailedPass, OtherErrorsStayAsTheyAre) {
  int given_up = 0;
  EXPECT_EQ(error_with("", given_up), "a kernel: expected success, found an illegal address");
  EXPECT_EQ(given_up, 1);
}

TEST(FailedPass, TheSessionGoesOnAfterTheLastCompleteChunk) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0"), {});
  offload::Workers workers(1);
  const RuntimeOptions options{.threads = 1, .max_batch = 4};
  const LoadedWeights weights(model, options, offload::probe_machine(), workers);
  bool fails = false;
  Runtime runtime(weights, options, [&](const BackendSources& from) {
    return std::make_unique<FailingOnce>(chosen_backend(from), fails);
  });
  std::vector<int32_t> ids(12);
  std::iota(ids.begin(), ids.end(), 1);
  Session undisturbed(runtime, 16, CacheType::kBF16);
  undisturbed.prefill(ids);

  Session session(runtime, 16, CacheType::kBF16);
  const auto fail_in_second_chunk = [&](int64_t done, int64_t /*total*/) { fails = done >= 4; };
  EXPECT_EQ(testing::error_text([&] { return session.prefill(ids, fail_in_second_chunk); }),
            "a kernel: expected success, found out of memory");
  fails = false;
  EXPECT_EQ(session.tokens().size(), 4U);
  const PrefillReport report = session.prefill(ids);
  EXPECT_EQ(report.cached, 4);
  EXPECT_TRUE(testing::identical(session.logits(), undisturbed.logits()));

  fails = true;
  EXPECT_NE(testing::error_text([&] { return session.append(5), 0; }), "no error");
  fails = false;
  EXPECT_EQ(session.tokens().size(), 12U);
  session.append(5);
  undisturbed.append(5);
  EXPECT_TRUE(testing::identical(session.logits(), undisturbed.logits()));
}

}  // namespace
}  // namespace sluice
