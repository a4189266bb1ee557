// Bytes of a GPU as the plan counts them without CUDA, and as the backend's parts count them with it. Needs
// no GPU.
#include <gtest/gtest.h>

#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_expert_stream.h"
#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/cuda_prefill.h"
#include "engine/backends/cuda_weights.h"
#include "engine/backends/gpu_working_memory.h"
#include "engine/plan_input.h"
#include "engine/synth/open_model.h"
#include "support/golden_model.h"

namespace sluice {
namespace {

offload::PlanModel described(const Model& model, const PlanInputOptions& options = {}) {
  return plan_model(model.config(), model.file().tensors(), options, model.path().string());
}

void expect_same_weights(const Model& model) {
  const offload::PlanModel plan = described(model);
  EXPECT_EQ(shared_gpu_bytes(plan), CudaWeights::bytes_needed(model, whole_model(model.config())));
  for (int64_t layer = model.config().dense_layers; layer < model.config().layers; ++layer) {
    EXPECT_EQ(plan.layers[static_cast<size_t>(layer)].gpu_experts,
              CudaExpertWeights::bytes_needed(model, {layer}));
  }
}

TEST(CudaPlanInput, WeightsAreWhatIsAllocated) {
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    SCOPED_TRACE(type);
    expect_same_weights(synth::open_model(
        synth::parse_model_spec(std::string("synth:tiny,dense=1,moe=2,type=") + type + ",dense_type=" + type),
        {}));
  }
}

TEST(CudaPlanInput, AFileIsCountedAsItIsLoaded) {
  SLUICE_NEEDS_TINY_MODEL();
  expect_same_weights(testing::golden_model());
}

TEST(CudaPlanInput, CachesAreWhatIsAllocated) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=2"), {});
  for (const CacheType type :
       {CacheType::kF32, CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8, CacheType::kFp8Int8}) {
    int64_t bytes = 0;
    for (const auto& part : described(model, {.cache_type = type}).gpu_cache(model.config().layers, 1000)) {
      bytes += part.bytes;
    }
    EXPECT_EQ(bytes, CudaCache::bytes_needed(model.config(), {0, model.config().layers}, 1000, type))
        << cache_type_name(type);
  }
}

TEST(CudaPlanInput, StreamedExpertsAreCountedAsTheyAreAllocated) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=2"), {});
  const ModelConfig& c = model.config();
  for (const int64_t tokens : {512, 4096, 32768}) {
    const int64_t allocated = CudaPrefill::bytes_needed({.experts = {.max_tokens = tokens,
                                                                     .d_model = c.d_model,
                                                                     .d_expert = c.d_expert,
                                                                     .experts = c.router.experts,
                                                                     .used = c.router.experts_used},
                                                         .staging = {}});
    const int64_t counted = streamed_bytes(c, tokens);
    EXPECT_GE(counted, allocated) << tokens;
    EXPECT_LE(counted, allocated + (int64_t{64} << 10)) << tokens;
  }
}

TEST(CudaPlanInput, ThePlansRingIsTheLeastThatTheBackendTakes) {
  for (const char* const type : {"q8_0", "nvfp4"}) {
    const offload::PlanModel plan = described(
        synth::open_model(synth::parse_model_spec(std::string("synth:tiny,dense=1,moe=2,type=") + type), {}));
    const StreamedSizes sizes{.expert_bytes = plan.staging_bytes / kLeastSlots,
                              .experts = plan.layers.back().experts};
    EXPECT_EQ(staging_shape(sizes, plan.staging_bytes).slots, kLeastSlots) << type;
    EXPECT_EQ(staging_shape(sizes, plan.staging_bytes - 1).slots, 0) << type;
  }
}

}  // namespace
}  // namespace sluice
