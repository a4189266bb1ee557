// The CUDA backend against the goldens and against the CPU backend: batches, types, caches, sessions.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/loaded_weights.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/golden_forward.h"
#include "support/golden_model.h"
#include "support/model_on_gpu.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

using testing::dense;
using testing::exact_on;
using testing::OnGpu;
using testing::resident;
using testing::with;

class CudaGolden : public OnGpu, public ::testing::WithParamInterface<const char*> {};

TEST_P(CudaGolden, LogitsHiddenStatesRoutesAndSelections) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(testing::golden_model(), exact_on(Device::kGpu));
  testing::expect_golden(runtime, GetParam());
}

TEST_P(CudaGolden, HoldWithAllExpertsOnTheGpu) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(testing::golden_model(), resident(testing::golden_model(), exact_on(Device::kGpu)));
  testing::expect_golden(runtime, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Prompts, CudaGolden, ::testing::ValuesIn(testing::kGoldenPrompts),
                         [](const auto& tested) { return std::string(tested.param); });

// Bounds are some times what was measured; the figures are in docs/cuda_backend.md.
TEST_P(CudaGolden, DefaultPrecisionStaysNear) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(testing::golden_model(), {.device = Device::kGpu});
  for (const CacheType type :
       {CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8, CacheType::kFp8Int8}) {
    const testing::GoldenDistance found = testing::golden_distance(runtime, GetParam(), type);
    EXPECT_GT(found.logit_error, 1e-5) << "nothing was rounded";
    EXPECT_LT(found.logit_error, has_fp8_latents(type) ? 0.2 : 0.05);
    EXPECT_GT(found.overlap, 0.95);
    EXPECT_GE(found.same_first + 1, found.positions);
    fmt::print(
        "{:9} {:9} logits {:.1e} relative, worst {:.1e}; likeliest token {} of {}; selection overlap "
        "{:.4f}\n",
        GetParam(), cache_type_name(type), found.logit_error, found.largest_error, found.same_first,
        found.positions, found.overlap);
  }
}

class CudaBackendTest : public testing::ModelOnGpu {};

TEST_F(CudaBackendTest, GreedyContinuationsAreTheGoldens) {
  SLUICE_NEEDS_TINY_MODEL();
  const Model& model = testing::golden_model();
  for (const RuntimeOptions& options : {exact_on(Device::kGpu), resident(model, exact_on(Device::kGpu)),
                                        resident(model, exact_on(Device::kGpu), 2)}) {
    Runtime runtime(model, options);
    testing::expect_golden_continuations(runtime);
  }
}

TEST_F(CudaBackendTest, ExpertsOnTheGpuAreTheCpus) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    const Model model = random_model(type);
    const std::vector<float> expected = logits(model, dense(exact_on(Device::kCpu)));
    for (const int64_t kept : {0, 2}) {
      for (const int64_t batch : {1, 7, 64, 512}) {
        RuntimeOptions on_gpu = dense(resident(model, exact_on(Device::kGpu, batch), kept));
        const std::vector<double> errors = testing::row_errors(logits(model, on_gpu), expected, kTokens);
        EXPECT_LT(testing::at_share(errors, 0.9), 1e-3) << type << ", batch " << batch << ", kept " << kept;
        on_gpu.activations = Activations::kInt8;  // many tokens in bf16
        const std::vector<double> rounded = testing::row_errors(logits(model, on_gpu), expected, kTokens);
        EXPECT_LT(testing::at_share(rounded, 0.5), 0.1) << type << ", batch " << batch << ", kept " << kept;
      }
    }
  }
}

TEST_F(CudaBackendTest, IsTheCpuBackendInEveryTypeAndBatch) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    const Model model = random_model(type);
    for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
      RuntimeOptions on_cpu = exact_on(Device::kCpu);
      on_cpu.attention = attention;
      const std::vector<float> expected = logits(model, on_cpu);
      for (const int64_t batch : {1, 7, 64, 512}) {
        RuntimeOptions on_gpu = exact_on(Device::kGpu, batch);
        on_gpu.attention = attention;
        const std::vector<double> errors = testing::row_errors(logits(model, on_gpu), expected, kTokens);
        const std::string name = fmt::format("{}, {}, batch {}", type, attention_mode_name(attention), batch);
        EXPECT_LT(testing::at_share(errors, 0.5), 1e-4) << name;
        EXPECT_LT(testing::at_share(errors, 0.9), 1e-3) << name;
      }
    }
  }
}

TEST_F(CudaBackendTest, RoundedActivationsAndCacheStayNear) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const std::vector<float> expected = logits(model, dense(exact_on(Device::kCpu)));
  RuntimeOptions on_gpu = dense(exact_on(Device::kGpu));
  const double cache_error =
      testing::at_share(testing::row_errors(logits(model, on_gpu, CacheType::kBF16), expected, kTokens), 0.5);
  EXPECT_GT(cache_error, 1e-5) << "the cache was not rounded";
  EXPECT_LT(cache_error, 0.02);
  on_gpu.activations = Activations::kInt8;
  const double error = testing::at_share(testing::row_errors(logits(model, on_gpu), expected, kTokens), 0.5);
  EXPECT_GT(error, 1e-5) << "activations were not rounded";
  EXPECT_LT(error, 0.1);
  fmt::print("median row error: bf16 cache {:.1e}, int8 experts and bf16 products {:.1e}\n", cache_error,
             error);
}

TEST_F(CudaBackendTest, RunsAreTheSameBits) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  // What is divided by measured times may be divided otherwise the next time.
  for (const Prefill prefill : {Prefill::kCpu, Prefill::kStream}) {
    const RuntimeOptions options{.max_batch = 64, .device = Device::kGpu, .prefill = prefill};
    const std::vector<float> first = logits(model, options);
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(testing::identical(logits(model, options), first)) << prefill_name(prefill);
    }
  }
}

// Candidates found on the GPU decide what all logits on the host do.
TEST_F(CudaBackendTest, TextsAreWhatAllLogitsChoose) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kSampled = 30;
  const Model model = random_model("q8_0");
  Runtime runtime(model, exact_on(Device::kGpu));
  const auto seed = static_cast<uint64_t>(random_.integer(0, 1'000'000));
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0, .seed = seed}, SamplingParams{.top_k = 40, .seed = seed},
        SamplingParams{.temperature = 0.7F, .top_p = 0.9F, .seed = seed},
        SamplingParams{.temperature = 5, .top_p = 1, .min_p = 0.01F, .seed = seed},
        SamplingParams{.top_p = 1, .seed = seed}, SamplingParams{.repeat_penalty = 1.3F, .seed = seed}}) {
    Session session(runtime, kContext, CacheType::kF32);
    session.prefill(ids_);
    GenerateOptions options;
    options.max_tokens = kSampled;
    options.ignore_eos = true;
    Sampler sampler(params);
    const std::vector<int32_t> found = session.generate(sampler, options).ids;
    Session by_hand(runtime, kContext, CacheType::kF32);
    by_hand.prefill(ids_);
    Sampler all(params);
    std::vector<int32_t> history = ids_;
    for (int64_t i = 0; i < kSampled; ++i) {
      if (i > 0) by_hand.append(history.back());
      history.push_back(all.sample(by_hand.logits(), history));
    }
    EXPECT_TRUE(std::equal(found.begin(), found.end(), history.end() - kSampled, history.end()));
    EXPECT_TRUE(testing::identical(session.logits(), by_hand.logits()));
  }
}

TEST_F(CudaBackendTest, SessionsMoveBetweenGpuAndCpu) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const testing::TemporaryDirectory directory;
  for (const auto& [type, attention] : testing::cache_types_and_attention()) {
    SCOPED_TRACE(fmt::format("{}, {}", cache_type_name(type), attention_mode_name(attention)));
    Runtime gpu(model, with(attention, exact_on(Device::kGpu)));
    Runtime cpu(model, with(attention, exact_on(Device::kCpu)));
    Session there(gpu, kContext, type);
    there.prefill(ids_);
    there.save(directory / "session");
    Session back(gpu, kContext, type);
    back.load(directory / "session");
    Session here(cpu, kContext, type);
    here.load(directory / "session");
    for (Session* const session : {&there, &back, &here}) session->append(3);
    EXPECT_TRUE(testing::identical(back.logits(), there.logits()));
    if (!testing::compares_across_devices(type, attention)) continue;
    const std::vector<float> expected(here.logits().begin(), here.logits().end());
    EXPECT_TRUE(testing::close(there.logits(), expected, 0.05, 0.05));
    // Forgetting tokens and computing them again changes nothing.
    there.truncate(kTokens - 20);
    std::vector<int32_t> again = ids_;
    again.push_back(3);
    EXPECT_EQ(there.prefill(again).cached, kTokens - 20);
    EXPECT_TRUE(testing::close(there.logits(), expected, 0.05, 0.05));
  }
}

TEST_F(CudaBackendTest, RuntimesShareLoadedWeights) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const offload::Machine machine = offload::probe_machine();
  offload::Workers workers(2);
  RuntimeOptions options = exact_on(Device::kGpu);
  const LoadedWeights weights(model, options, machine, workers);
  ASSERT_NE(weights.gpu(), nullptr);
  EXPECT_EQ(weights.panels(), nullptr);
  for (const int64_t batch : {1, 64}) {
    options.max_batch = batch;
    ASSERT_TRUE(weights.suit(options));
    Runtime runtime(weights, options);
    Session session(runtime, kContext, CacheType::kF32);
    session.prefill(ids_);
    EXPECT_NE(runtime.description().find("GPU 0"), std::string::npos) << runtime.description();
  }
  EXPECT_FALSE(weights.suit(resident(model, options)));
  options.device = Device::kCpu;
  EXPECT_FALSE(weights.suit(options));
}

// Stopped before its hand-overs: the next pass is as if nothing had been, and memory can be freed.
TEST_F(CudaBackendTest, AStoppedPassLeavesNothingBehind) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  Runtime runtime(model, exact_on(Device::kGpu));
  const auto cache = runtime.make_cache(kContext, CacheType::kF32);
  const auto pass = [&](const std::stop_token& stop) {
    return runtime.forward({.ids = std::span(ids_).first(1), .first_position = 0, .stop = stop}, *cache);
  };
  const auto row = [](const Runtime::Result& result) {
    return std::vector<float>(result.logits.data, result.logits.data + result.logits.cols);
  };
  const std::vector<float> expected = row(pass({}));
  std::stop_source stop;
  stop.request_stop();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(pass(stop.get_token()).completed);
    EXPECT_TRUE(testing::identical(row(pass({})), expected));
  }
  EXPECT_FALSE(pass(stop.get_token()).completed);
  static_cast<void>(runtime.make_cache(kContext, CacheType::kF32));  // and freed at once
}

TEST_F(CudaBackendTest, WhatDoesNotFitIsRefusedWithNumbers) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  RuntimeOptions options = exact_on(Device::kGpu);
  options.planned_context = int64_t{1} << 40;
  const std::string text = testing::error_text([&] {
    const Runtime runtime(model, options);
    return 0;
  });
  for (const char* const part : {"GPU 0", "for weights", "-c", "-ngl", "free"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  Runtime runtime(model, exact_on(Device::kGpu));
  const std::string too_long = testing::error_text(
      [&] { return runtime.make_cache(model.config().context_length + 1, CacheType::kF32); });
  EXPECT_NE(too_long.find("-c/--ctx-size"), std::string::npos) << too_long;
}

TEST_F(CudaBackendTest, AutoTakesTheGpu) {
  EXPECT_EQ(chosen_device(Device::kAuto), Device::kGpu);
  EXPECT_EQ(chosen_device(Device::kCpu), Device::kCpu);
  EXPECT_TRUE(find_gpu().notice.empty());
}

}  // namespace
}  // namespace sluice
