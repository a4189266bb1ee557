// A pass in which the backend fails: the error says what a GPU was computing, and the pass is given up.
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "engine/backends/chosen_backend.h"
#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"
#include "quant/base/error.h"
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

}  // namespace
}  // namespace sluice
