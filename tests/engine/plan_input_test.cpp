// A model as bytes: what the table of tensors says is what the CPU's parts allocate.
#include "engine/plan_input.h"

#include <gtest/gtest.h>

#include <numeric>

#include "engine/backends/cpu_activations.h"
#include "engine/backends/panel_weights.h"
#include "engine/memory_need.h"
#include "engine/synth/open_model.h"
#include "engine/synth/presets.h"
#include "engine/synth/recipe.h"
#include "offload/expert_store.h"
#include "support/error_text.h"
#include "support/golden_model.h"

namespace sluice {
namespace {

constexpr const char* kTypes[] = {"bf16", "q8_0", "nvfp4", "q4_k"};

Model tiny_model(const std::string& type) {
  return synth::open_model(
      synth::parse_model_spec("synth:tiny,dense=1,moe=2,type=" + type + ",dense_type=" + type), {});
}

offload::PlanModel described(const Model& model, const PlanInputOptions& options = {}) {
  return plan_model(model.config(), model.file().tensors(), options, model.path().string());
}

int64_t total(const std::vector<offload::PlannedBytes>& parts) {
  return std::accumulate(parts.begin(), parts.end(), int64_t{0},
                         [](int64_t sum, const auto& part) { return sum + part.bytes; });
}

TEST(PlanInput, WeightsInRamAreWhatIsAllocated) {
  for (const char* const type : kTypes) {
    const Model model = tiny_model(type);
    const offload::PlanModel plan = described(model);
    EXPECT_EQ(shared_ram_bytes(plan),
              PanelWeights::bytes_needed(model.weights(), whole_model(model.config())))
        << type;
    int64_t experts = 0;
    for (const offload::PlanLayer& layer : plan.layers) experts += layer.ram_experts;
    EXPECT_EQ(experts, offload::ExpertStore::bytes_needed(*model.expert_source(), {offload::ExpertHome{}}))
        << type;
  }
}

TEST(PlanInput, AFileIsCountedAsItIsLoaded) {
  SLUICE_NEEDS_TINY_MODEL();
  const Model& model = testing::golden_model();
  const offload::PlanModel plan = described(model);
  EXPECT_EQ(shared_ram_bytes(plan), PanelWeights::bytes_needed(model.weights(), whole_model(model.config())));
  int64_t experts = 0;
  for (const offload::PlanLayer& layer : plan.layers) experts += layer.ram_experts;
  EXPECT_EQ(experts, expert_bytes(model.weights()));
}

TEST(PlanInput, CachesAndActivationsAreWhatIsAllocated) {
  const Model model = tiny_model("q8_0");
  const ModelConfig& config = model.config();
  for (const CacheType type :
       {CacheType::kF32, CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8, CacheType::kFp8Int8}) {
    const offload::PlanModel plan = described(model, {.cache_type = type});
    EXPECT_EQ(total(plan.ram_cache(config.layers, 256)), CpuCache(config, 256, type).bytes())
        << cache_type_name(type);
    EXPECT_EQ(plan.memory.scanned_int8, has_int8_keys(type));
  }
  const CpuActivations a(config, 7);
  int64_t floats = 0;
  for (const Activation* const part :
       {&a.residual, &a.normed, &a.query_latent, &a.query, &a.kv, &a.absorbed_query, &a.attended, &a.value,
        &a.block_output, &a.cos_sin, &a.index_query, &a.index_weights, &a.index_key, &a.gate, &a.up,
        &a.router_logits, &a.route_weights}) {
    floats += static_cast<int64_t>(part->values.size());
  }
  floats += static_cast<int64_t>(a.route_ids.size());
  EXPECT_EQ(CpuActivations::bytes_needed(config, 7), floats * 4);
}

TEST(PlanInput, TheRealModelIsAsLargeAsItIs) {
  const synth::LayerCounts layers = synth::preset_layers(synth::Preset::kDeepSeekV32);
  const synth::ModelSpec spec{.preset = synth::Preset::kDeepSeekV32,
                              .dense_layers = layers.dense,
                              .moe_layers = layers.moe,
                              .type = quant::DType::kQ8_0,
                              .dense_type = quant::DType::kQ8_0};
  const ModelConfig config = synth::config_of(spec);
  const offload::PlanModel plan = plan_model(config, synth::plan_tensors(spec, config).tensors, {}, "preset");
  ASSERT_EQ(plan.layers.size(), 61);
  // 58 layers of 256 experts of three matrices of 7168 x 2048, 34 bytes for 32 weights.
  const int64_t expert = 3 * int64_t{7168} * 2048 / 32 * 34;
  EXPECT_EQ(plan.layers[60].ram_experts, 256 * expert);
  EXPECT_EQ(plan.layers[60].gpu_experts, 256 * expert);
  EXPECT_EQ(plan.layers[0].experts, 0);
  EXPECT_DOUBLE_EQ(plan.layers[60].expert_operations, 2.0 * 8 * 3 * 7168 * 2048);
  EXPECT_EQ(plan.memory.attended_bytes, 1152);
  EXPECT_EQ(plan.memory.scanned_bytes, 256);
  EXPECT_EQ(plan.memory.most_attended, 2048);
  EXPECT_GT(shared_gpu_bytes(plan), 17'000'000'000);
  EXPECT_LT(shared_gpu_bytes(plan), 20'000'000'000);
}

TEST(PlanInput, DenseAttentionAttendsToAll) {
  const Model model = tiny_model("q8_0");
  const offload::PlanModel plan = described(model, {.attention = AttentionMode::kDense});
  EXPECT_EQ(plan.memory.most_attended, model.config().context_length);
}

TEST(PlanInput, QuantizedExpertsAreStreamedThroughARingOfThree) {
  for (const char* const type : kTypes) {
    const Model model = tiny_model(type);
    const offload::PlanModel plan = described(model);
    EXPECT_EQ(plan.streams, std::string(type) != "bf16") << type;
    const offload::PlanLayer& layer = plan.layers.back();
    EXPECT_GE(plan.staging_bytes, 3 * (layer.ram_experts / layer.experts)) << type;
    EXPECT_LE(plan.staging_bytes, 3 * (layer.ram_experts / layer.experts + 255)) << type;
    EXPECT_FALSE(described(model, {.activations = Activations::kFloat32}).streams);
    EXPECT_FALSE(described(model, {.streams = false}).streams);
  }
}

TEST(PlanInput, MissingTensorsAreNamed) {
  const Model model = tiny_model("q8_0");
  std::vector<quant::Tensor> tensors = model.file().tensors();
  const auto without = [&](std::string_view part) {
    std::vector<quant::Tensor> rest = tensors;
    std::erase_if(rest, [&](const quant::Tensor& t) { return t.name.find(part) != std::string::npos; });
    return testing::error_text([&] { static_cast<void>(plan_model(model.config(), rest, {}, "m.gguf")); });
  };
  EXPECT_EQ(without("token_embd"), "m.gguf: expected a tensor token_embd.weight, found none");
  EXPECT_EQ(without("blk.2."), "m.gguf: tensors blk.2.*: expected weights and routed experts, found others");
  EXPECT_EQ(without("blk.1.ffn_gate_exps"), "no error") << "what is left still has experts";
  EXPECT_EQ(without("_exps"), "m.gguf: tensors blk.1.*: expected weights and routed experts, found others");
  EXPECT_EQ(without("output.weight"), "no error") << "tied";
}

TEST(PlanInput, ATiedHeadIsCountedOnce) {
  const Model model = tiny_model("q8_0");
  std::vector<quant::Tensor> tensors = model.file().tensors();
  std::erase_if(tensors, [](const quant::Tensor& t) { return t.name == "output.weight"; });
  const offload::PlanModel apart = described(model);
  const offload::PlanModel tied = plan_model(model.config(), tensors, {}, "m.gguf");
  EXPECT_EQ(shared_gpu_bytes(tied), shared_gpu_bytes(apart) - apart.ends.gpu_embedding);
  EXPECT_EQ(tied.ends.ram_head, apart.ends.ram_head);
}

}  // namespace
}  // namespace sluice
