// Bytes of a GPU as the plan counts them without CUDA, and as the backend's parts count them with it. Needs
// no GPU.
#include <gtest/gtest.h>

#include "engine/backends/cuda_backend.h"
#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_expert_stream.h"
#include "engine/backends/cuda_expert_weights.h"
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

// Without the ring, which takes what is left.
TEST(CudaPlanInput, WorkingMemoryIsWhatIsAllocated) {
  constexpr int64_t kMultiprocessors = 82;
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=2"), {});
  for (const Activations activations : {Activations::kInt8, Activations::kFloat32}) {
    const offload::PlanModel plan = described(model, {.activations = activations});
    for (const int64_t pass : {1, 16, 17, 512, 4096, 32768}) {
      const int64_t tile = std::min<int64_t>(pass, 512);
      for (const bool streams : {false, true}) {
        for (const bool has_experts : {false, true}) {
          int64_t counted = 0;
          for (const offload::PlannedBytes& part : plan.gpu_working({.pass_tokens = pass,
                                                   .tile_tokens = tile,
                                                   .context = 1000,
                                                   .multiprocessors = kMultiprocessors,
                                                   .gpu_has_experts = has_experts,
                                                   .streams = streams})) {
            counted += part.bytes;
          }
          RuntimeOptions options{.max_batch = pass, .tile = tile, .activations = activations};
          options.prefill = streams ? Prefill::kStream : Prefill::kCpu;
          if (has_experts) options.gpu_expert_layers = {1, 2};
          EXPECT_EQ(counted, CudaBackend::bytes_needed(model.config(), options, {}, kMultiprocessors))
              << "passes of " << pass << (streams ? ", streamed" : "") << (has_experts ? ", resident" : "");
        }
      }
    }
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

// Experts that the GPU keeps need for a long pass what streamed ones do, once for both.
TEST(CudaPlanInput, ResidentAndStreamedExpertsShareTheirMemory) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=2"), {});
  RuntimeOptions options{.max_batch = 4096, .prefill = Prefill::kCpu};
  const auto pass_experts = [&] { return gpu_working_memory(model.config(), options, 82).pass_experts; };
  EXPECT_EQ(pass_experts(), 0);
  options.gpu_expert_layers = {1};
  const int64_t resident = pass_experts();
  EXPECT_EQ(resident, pass_expert_bytes(pass_expert_shape(model.config(), options).value()));
  options.prefill = Prefill::kStream;
  EXPECT_EQ(pass_experts(), resident);
  options.gpu_expert_layers = {};
  EXPECT_EQ(pass_experts(), resident);
}

}  // namespace
}  // namespace sluice
