// Who computes what of a model, by llama.cpp's count.
#include "engine/model_part.h"

#include <gtest/gtest.h>

#include "engine/backends/panel_weights.h"
#include "engine/runtime.h"
#include "engine/synth/open_model.h"
#include "offload/workers.h"

namespace sluice {
namespace {

ModelConfig config_of(int64_t layers) {
  ModelConfig config;
  config.layers = layers;
  return config;
}

TEST(ModelPart, TheHeadCountsAsOneLayerMore) {
  EXPECT_EQ(first_gpu_layer(61, 0), 62);  // not even the head
  EXPECT_EQ(first_gpu_layer(61, 1), 61);
  EXPECT_EQ(first_gpu_layer(61, 2), 60);
  EXPECT_EQ(first_gpu_layer(61, 61), 1);
  EXPECT_EQ(first_gpu_layer(61, 62), 0);
  EXPECT_EQ(first_gpu_layer(61, 99), 0);
}

TEST(ModelPart, EverythingIsSomewhereOnce) {
  const ModelConfig config = config_of(61);
  for (int64_t border = 0; border <= 61; ++border) {
    const ModelParts parts = divided_at(config, border);
    EXPECT_EQ(parts.cpu.layers.end, parts.gpu.layers.begin);
    EXPECT_EQ(parts.cpu.layers.count() + parts.gpu.layers.count(), 61);
    EXPECT_NE(parts.cpu.embedding, parts.gpu.embedding);
    EXPECT_TRUE(parts.gpu.head && !parts.cpu.head);
    EXPECT_EQ(parts.divided(), border > 0);
    EXPECT_EQ(parts.gpu.layers.has(60), border < 61);
  }
  EXPECT_EQ(divided_at(config, 0).gpu, whole_model(config));
  EXPECT_TRUE(divided_at(config, 0).cpu.empty());
  EXPECT_FALSE(divided_at(config, 61).gpu.empty());  // the head
}

TEST(ModelPart, WithoutAGpuTheCpuHasAll) {
  const ModelParts parts = parts_of(config_of(3), {.device = Device::kCpu});
  EXPECT_EQ(parts.cpu, whole_model(config_of(3)));
  EXPECT_TRUE(parts.gpu.empty());
  EXPECT_FALSE(parts.divided());
}

TEST(ModelPart, IsToldInWords) {
  EXPECT_EQ(division_text(divided_at(config_of(61), 30)),
            "31 of 61 layers and the head there; 30 layers and");
  EXPECT_EQ(division_text(divided_at(config_of(61), 1)), "60 of 61 layers and the head there; 1 layer and");
  EXPECT_EQ(division_text(divided_at(config_of(61), 61)), "the head there; 61 layers and");
}

TEST(ModelPart, PanelsAreOfAPart) {
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=2,type=q8_0"), {});
  const ModelWeights& weights = model.weights();
  const ModelParts parts = divided_at(model.config(), 2);
  offload::Workers workers(1);
  const PanelWeights cpu(weights, parts.cpu, workers, {});
  EXPECT_EQ(PanelWeights::bytes_needed(weights, parts.cpu) + PanelWeights::bytes_needed(weights, parts.gpu),
            PanelWeights::bytes_needed(weights, whole_model(model.config())));
  EXPECT_NE(cpu.find(weights.layers[1].output), nullptr);
  EXPECT_EQ(cpu.find(weights.layers[2].output), nullptr);
  EXPECT_EQ(cpu.find(weights.output), nullptr);
  EXPECT_EQ(PanelWeights::bytes_needed(weights, {}), 0);
}

}  // namespace
}  // namespace sluice
