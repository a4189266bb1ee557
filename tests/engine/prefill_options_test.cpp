// How -b, -ub and --prefill are resolved where there is no GPU, and what is refused. cuda_prefill_test.cpp
// has the rest.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/loaded_weights.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "support/error_text.h"

namespace sluice {
namespace {

Model some_model() {
  return synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0,seed=3"), {});
}

TEST(PrefillOptions, WithoutAGpuAPassIsATile) {
  const Model model = some_model();
  const RuntimeOptions plain = checked_options(model, {.threads = 1});
  EXPECT_EQ(plain.max_batch, 512);
  EXPECT_EQ(plain.prefill, Prefill::kCpu);
  EXPECT_EQ(checked_options(model, {.threads = 1, .tile = 7}).max_batch, 7);
  const RuntimeOptions given = checked_options(model, {.threads = 1, .max_batch = 9, .tile = 7});
  EXPECT_EQ(given.max_batch, 9);
  EXPECT_EQ(given.tile, 9);
}

TEST(PrefillOptions, NamesWhatCannotBe) {
  const Model model = some_model();
  const auto refusal = [&](const RuntimeOptions& options) {
    return testing::error_text([&] { return checked_options(model, options).tile; });
  };
  EXPECT_NE(refusal({.threads = 1, .tile = 0}).find("-ub/--ubatch-size"), std::string::npos);
  EXPECT_NE(refusal({.threads = 1, .max_batch = -1}).find("-b/--batch-size"), std::string::npos);
  EXPECT_NE(refusal({.threads = 1, .max_batch = 65537}).find("-b/--batch-size"), std::string::npos);
  const std::string text = refusal({.threads = 1, .device = Device::kCpu, .prefill = Prefill::kStream});
  for (const char* const part : {"--prefill stream", "a GPU", "the CPU alone"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

TEST(PrefillOptions, WeightsOfTheCpusPrefillAreNotStreamed) {
  const Model model = some_model();
  offload::Workers workers(1);
  RuntimeOptions options{.threads = 1, .device = Device::kCpu, .prefill = Prefill::kCpu};
  const LoadedWeights weights(model, options, offload::probe_machine(), workers);
  EXPECT_TRUE(weights.suit(options));
  options.prefill = Prefill::kStream;
  EXPECT_FALSE(weights.suit(options));
}

TEST(PrefillOptions, PassesOfAPromptAreAlike) {
  const Model model = some_model();
  Runtime runtime(model, {.threads = 1, .tile = 8});
  Session session(runtime, 64, CacheType::kF32);
  std::vector<int32_t> ids(19);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::vector<int64_t> ends;
  const int64_t layers = model.config().layers;
  int64_t calls = 0;
  session.prefill(ids, [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 19);
    if (++calls % layers == 0) ends.push_back(done);
  });
  EXPECT_EQ(ends, (std::vector<int64_t>{7, 13, 19})) << "three passes, told after each layer";
}

}  // namespace
}  // namespace sluice
