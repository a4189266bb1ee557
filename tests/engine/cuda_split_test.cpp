// A model whose first layers are the CPU's and the others a GPU's, against the CPU alone.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_weights.h"
#include "engine/engine.h"
#include "engine/loaded_weights.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "support/compare.h"
#include "support/golden_forward.h"
#include "support/golden_model.h"
#include "support/model_on_gpu.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

using testing::dense;
using testing::exact_on;
using testing::resident;
using testing::with;

RuntimeOptions split_at(int64_t border, int64_t max_batch = 512) {
  RuntimeOptions options = exact_on(Device::kGpu, max_batch);
  options.first_gpu_layer = border;
  return options;
}

// Counting needs no GPU.
TEST(CudaSplitBytes, PartsAddUp) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=3,type=q8_0"), {});
  const ModelConfig& config = model.config();
  const int64_t all = CudaWeights::bytes_needed(model, whole_model(config));
  const int64_t all_rows = CudaCache::bytes_needed(config, {0, config.layers}, 1000, CacheType::kBF16Int8);
  for (int64_t border = 1; border <= config.layers; ++border) {
    const ModelParts parts = divided_at(config, border);
    const int64_t here = CudaWeights::bytes_needed(model, parts.gpu);
    EXPECT_LT(here, all);
    EXPECT_EQ(here + CudaWeights::bytes_needed(model, parts.cpu), all);
    EXPECT_EQ(CudaCache::bytes_needed(config, parts.gpu.layers, 1000, CacheType::kBF16Int8) * config.layers,
              all_rows * parts.gpu.layers.count());
  }
}

class CudaSplit : public testing::ModelOnGpu {};

TEST_F(CudaSplit, IsTheCpuAtEveryBorderAndBatch) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"bf16", "q8_0"}) {
    const Model model = random_model(type);
    for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
      RuntimeOptions on_cpu = exact_on(Device::kCpu);
      on_cpu.attention = attention;
      const std::vector<float> expected = logits(model, on_cpu);
      for (int64_t border = 1; border <= model.config().layers; ++border) {
        for (const int64_t batch : {1, 7, 512}) {
          RuntimeOptions options = split_at(border, batch);
          options.attention = attention;
          const std::vector<double> errors = testing::row_errors(logits(model, options), expected, kTokens);
          const std::string name =
              fmt::format("{}, {}, border {}, batch {}", type, attention_mode_name(attention), border, batch);
          EXPECT_LT(testing::at_share(errors, 0.5), 1e-4) << name;
          EXPECT_LT(testing::at_share(errors, 0.9), 1e-3) << name;
        }
      }
    }
  }
}

TEST_F(CudaSplit, ExpertsOfItsLayersMayBeOnTheGpu) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("nvfp4");
  const std::vector<float> expected = logits(model, dense(exact_on(Device::kCpu)));
  for (const int64_t border : {1, 2}) {
    for (const int64_t kept : {0, 2}) {
      for (const int64_t batch : {1, 64}) {
        const RuntimeOptions options = dense(resident(model, split_at(border, batch), kept));
        const std::vector<double> errors = testing::row_errors(logits(model, options), expected, kTokens);
        EXPECT_LT(testing::at_share(errors, 0.9), 1e-3)
            << "border " << border << ", kept " << kept << ", batch " << batch;
      }
    }
  }
}

// Panels of the CPU's layers with int8 activations, bf16 products on the GPU.
TEST_F(CudaSplit, RoundedActivationsStayNear) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const std::vector<float> expected = logits(model, dense(exact_on(Device::kCpu)));
  RuntimeOptions options = dense(split_at(2));
  options.activations = Activations::kInt8;
  const double error = testing::at_share(testing::row_errors(logits(model, options), expected, kTokens), 0.5);
  EXPECT_GT(error, 1e-5) << "nothing was rounded";
  EXPECT_LT(error, 0.1);
}

TEST_F(CudaSplit, RunsAreTheSameBits) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  Runtime runtime(model, split_at(2, 1));
  const std::vector<float> first = logits(runtime);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(testing::identical(logits(runtime), first));
}

TEST_F(CudaSplit, SessionsMoveBetweenPlacements) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const testing::TemporaryDirectory directory;
  for (const auto& [type, attention] : testing::cache_types_and_attention()) {
    if (!testing::compares_across_devices(type, attention)) continue;
    Runtime split(model, with(attention, split_at(2)));
    Runtime other_split(model, with(attention, split_at(1)));
    Runtime gpu(model, with(attention, exact_on(Device::kGpu)));
    Runtime cpu(model, with(attention, exact_on(Device::kCpu)));
    for (Runtime* const saved : {&split, &gpu, &cpu}) {
      Session there(*saved, kContext, type);
      there.prefill(ids_);
      there.save(directory / "session");
      there.append(3);
      const std::vector<float> expected(there.logits().begin(), there.logits().end());
      // Only the last token is computed elsewhere.
      for (Runtime* const loaded : {&split, &other_split, &gpu, &cpu}) {
        Session here(*loaded, kContext, type);
        here.load(directory / "session");
        here.append(3);
        EXPECT_TRUE(testing::close(here.logits(), expected, 0.05, 0.05))
            << saved->description() << " -> " << loaded->description();
      }
    }
  }
}

TEST_F(CudaSplit, AStoppedPassLeavesNothingBehind) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  Runtime runtime(model, split_at(2));
  const auto cache = runtime.make_cache(kContext, CacheType::kF32);
  const std::vector<float> expected = logits(runtime);
  std::stop_source stop;
  stop.request_stop();
  for (const size_t tokens : {size_t{1}, size_t{5}}) {
    EXPECT_FALSE(
        runtime.forward({.ids = std::span(ids_).first(tokens), .stop = stop.get_token()}, *cache).completed);
    EXPECT_TRUE(testing::identical(logits(runtime), expected));
  }
}

TEST_F(CudaSplit, TheDescriptionSaysWhatLiesWhere) {
  const Model model = random_model("q8_0");
  const auto description = [&](int64_t border) { return Runtime(model, split_at(border)).description(); };
  const std::string two = description(2);
  EXPECT_NE(two.find("of weights, 1 of 3 layers and the head there; 2 layers and experts on the CPU, "),
            std::string::npos)
      << two;
  EXPECT_NE(description(3).find(", the head there; 3 layers and experts on the CPU"), std::string::npos);
  EXPECT_NE(description(0).find("of weights; experts on the CPU"), std::string::npos);
}

TEST_F(CudaSplit, LoadedWeightsAreOfOneBorder) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  offload::Workers workers(2);
  RuntimeOptions options = split_at(2);
  options.activations = Activations::kInt8;
  const LoadedWeights weights(model, options, offload::probe_machine(), workers);
  ASSERT_NE(weights.gpu(), nullptr);
  ASSERT_NE(weights.panels(), nullptr);
  EXPECT_NE(weights.panels()->find(model.weights().layers[1].output), nullptr);
  EXPECT_EQ(weights.panels()->find(model.weights().layers[2].output), nullptr);
  EXPECT_TRUE(weights.suit(options));
  options.first_gpu_layer = 1;
  EXPECT_FALSE(weights.suit(options));
}

// What the clock of the graph says is of the GPU's layers; the CPU's are measured on the host.
TEST_F(CudaSplit, TimesAreOfBothKindsOfLayers) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  for (const int64_t border : {1, 2, 3}) {
    RuntimeOptions options = split_at(border, 1);
    options.profile = true;
    Runtime runtime(model, options);
    static_cast<void>(logits(runtime));
    const LayerTimes times = runtime.layer_times();
    EXPECT_GT(times.dense_ns, 0);
    EXPECT_GT(times.moe_ns, 0);
    EXPECT_EQ(times.blocks.layers, kTokens * (3 - border));
    EXPECT_EQ(times.blocks.attention_ns > 0, border < 3);
  }
}

class CudaSplitGolden : public testing::OnGpu, public ::testing::WithParamInterface<int64_t> {};

// Of six layers.
TEST_P(CudaSplitGolden, LogitsHiddenStatesRoutesAndSelections) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(testing::golden_model(), split_at(GetParam()));
  testing::expect_golden(runtime, "t700");
}

TEST_P(CudaSplitGolden, GreedyContinuations) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(testing::golden_model(), split_at(GetParam()));
  testing::expect_golden_continuations(runtime);
}

INSTANTIATE_TEST_SUITE_P(Borders, CudaSplitGolden, ::testing::Values(1, 4, 6));

}  // namespace
}  // namespace sluice
