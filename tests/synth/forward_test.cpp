// A synthetic model computes: finite logits, and experts chosen all over.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/forward_observer.h"
#include "engine/synth/open_model.h"
#include "support/random_tensors.h"

namespace sluice::synth {
namespace {

class ChosenExperts : public ForwardObserver {
 public:
  void routes(int64_t layer, int64_t /*first_position*/, const offload::Routes& routes) override {
    std::set<int32_t>& chosen = by_layer[layer];
    for (int64_t t = 0; t < routes.ids.rows; ++t) {
      for (const int32_t expert : routes.ids.row(t)) chosen.insert(expert);
    }
  }

  std::map<int64_t, std::set<int32_t>> by_layer;
};

TEST(SyntheticForward, LogitsAreFiniteAndExpertsSpread) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    SCOPED_TRACE(type);
    // Twenty layers: activations neither vanish nor grow without bound.
    const Model model = open_model(
        parse_model_spec(std::string("synth:tiny,dense=2,moe=18,type=") + type + ",dense_type=" + type +
                         ",seed=" + std::to_string(random.integer(0, 1000000))),
        {});
    std::vector<int32_t> ids(100);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integer(0, model.config().vocab_size - 1));
    Runtime runtime(model, {.threads = 2});
    CpuCache cache(model.config(), 100, CacheType::kBF16);
    ChosenExperts chosen;
    const Runtime::Result result =
        runtime.forward({.ids = ids, .logits = Logits::kAll, .observer = &chosen, .stop = {}}, cache);
    double squares = 0;
    for (int64_t t = 0; t < result.logits.rows; ++t) {
      for (const float logit : result.logits.row(t)) {
        ASSERT_TRUE(std::isfinite(logit));
        squares += static_cast<double>(logit) * static_cast<double>(logit);
      }
    }
    const double rms = std::sqrt(squares / static_cast<double>(result.logits.rows * result.logits.cols));
    EXPECT_GT(rms, 0.1);
    EXPECT_LT(rms, 10.0);
    ASSERT_EQ(chosen.by_layer.size(), 18U);
    for (const auto& [layer, experts] : chosen.by_layer) {
      EXPECT_GE(static_cast<int64_t>(experts.size()), model.config().router.experts * 3 / 4) << layer;
    }
  }
}

}  // namespace
}  // namespace sluice::synth
