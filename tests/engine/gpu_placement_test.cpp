// What the free memory of a GPU is filled with, for GPUs that are not here: to the byte, against sums of the
// parts that the backend's own counts are tested with (plan_input_test.cpp, cuda_plan_input_test.cpp).
#include "engine/gpu_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/plan_input.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/recipe.h"
#include "offload/plan.h"
#include "support/error_text.h"

namespace sluice {
namespace {

constexpr int64_t kGiga = 1'000'000'000;
constexpr int64_t kInUse = 600'000'000;

/// A model without its weights, and what takes memory beside its experts.
struct Described {
  explicit Described(const std::string& text)
      : spec(synth::parse_model_spec(text)),
        config(synth::config_of(spec)),
        tensors(synth::plan_tensors(spec, config).tensors) {}

  synth::ModelSpec spec;
  ModelConfig config;
  std::vector<quant::Tensor> tensors;

  [[nodiscard]] GpuFilling filling(const RuntimeOptions& options, int64_t free) const {
    return gpu_filling(config, tensors, options, memory(free), "m");
  }
  static GpuMemory memory(int64_t free) {
    return {.name = "GPU", .total = free + kInUse, .free = free, .multiprocessors = 132};
  }

  /// Bytes with the experts of the last `resident` layers there and passes of `pass` tokens, all layers being
  /// the GPU's.
  [[nodiscard]] int64_t needed(const RuntimeOptions& options, int64_t resident, int64_t pass) const {
    const offload::PlanModel model = plan_model(config, tensors, {.cache_type = options.planned_cache}, "m");
    const bool streams = resident < config.layers - config.dense_layers;
    int64_t bytes = shared_gpu_bytes(model) + offload::kGpuReserveBytes + (streams ? model.staging_bytes : 0);
    for (int64_t i = 0; i < resident; ++i) {
      bytes += model.layers[static_cast<size_t>(config.layers - 1 - i)].gpu_experts;
    }
    for (const auto& part : model.gpu_cache(config.layers, options.planned_context)) bytes += part.bytes;
    for (const auto& part : model.gpu_working({.pass_tokens = pass,
                            .tile_tokens = std::min(options.tile, pass),
                            .context = options.planned_context,
                            .multiprocessors = 132,
                            .gpu_has_experts = resident > 0,
                            .streams = streams})) {
      bytes += part.bytes;
    }
    return bytes;
  }

  [[nodiscard]] std::vector<int64_t> last(int64_t count) const {
    std::vector<int64_t> layers(static_cast<size_t>(count));
    std::iota(layers.begin(), layers.end(), config.layers - count);
    return layers;
  }
};

RuntimeOptions on_gpu(int64_t context) {
  return {.device = Device::kGpu, .planned_context = context};
}

const Described& some_layers() {
  static const Described model("synth:deepseek-v3.2,dense=1,moe=4,type=nvfp4");
  return model;
}

TEST(GpuFilling, OfTheRealModelIsWhatThePlanShows) {
  const Described model("synth:deepseek-v3.2,dense=3,moe=58,type=nvfp4");
  // docs/tuning.md: a card of 96 GB.
  const GpuFilling filling = gpu_filling(
      model.config, model.tensors, on_gpu(32768),
      {.name = "GPU", .total = 102'641'958'912, .free = 102'641'958'912 - kInUse, .multiprocessors = 188},
      "m");
  EXPECT_EQ(filling.layers, model.last(12));
  EXPECT_EQ(filling.pass_tokens, 32768);
  EXPECT_EQ(filling_text(filling), "GPU: experts of layers 49-60 (76.1 GB) there, -ncmoe 49");
}

TEST(GpuFilling, ExactlyWhatFitsAndOneLayerLessForAByte) {
  const Described& model = some_layers();
  const RuntimeOptions options = on_gpu(4096);
  for (int64_t count = 1; count < 4; ++count) {
    const int64_t needed = model.needed(options, count, 4096);
    EXPECT_EQ(model.filling(options, needed).layers, model.last(count));
    EXPECT_EQ(model.filling(options, needed).pass_tokens, 4096);
    EXPECT_EQ(model.filling(options, needed - 1).layers, model.last(count - 1));
    EXPECT_EQ(model.filling(options, needed - 1).pass_tokens, 4096);
  }
}

TEST(GpuFilling, WithAllExpertsThereNothingIsStreamed) {
  const Described& model = some_layers();
  RuntimeOptions options = on_gpu(4096);
  const int64_t needed = model.needed(options, 4, 512);
  const GpuFilling all = model.filling(options, needed);
  EXPECT_EQ(all.layers, model.last(4));
  EXPECT_EQ(all.pass_tokens, 512);
  EXPECT_EQ(all.next_bytes, 0);
  EXPECT_LT(model.filling(options, needed - 1).layers.size(), 4);
  EXPECT_EQ(filling_text(all), "GPU: experts of layers 1-4 (25.4 GB) there, -ncmoe 1");
  EXPECT_EQ(model.filling(options, model.needed(options, 4, 4096)).pass_tokens, 4096);
  EXPECT_EQ(model.filling(options, model.needed(options, 4, 4096) - 1).pass_tokens, 2048);
  options.tile = 64;
  options.max_batch = 1000;
  EXPECT_EQ(model.filling(options, model.needed(options, 4, 1000)).pass_tokens, 1000);
  EXPECT_EQ(model.filling(options, model.needed(options, 4, 1000) - 1).pass_tokens, 64)
      << "or those of a tile";
}

TEST(GpuFilling, ASmallModelIsAllThere) {
  for (const char* const type : {"q8_0", "bf16"}) {
    const Described model(std::string("synth:tiny,dense=1,moe=2,type=") + type);
    const GpuFilling filling = model.filling(on_gpu(model.config.context_length), 8 * kGiga);
    EXPECT_EQ(filling.layers, model.last(2)) << type;
    const bool at_once = std::string_view(type) == "q8_0";
    EXPECT_EQ(filling.pass_tokens, at_once ? std::max<int64_t>(512, model.config.context_length) : 512)
        << type;
    EXPECT_NE(filling_text(filling).find(" MB) there, -ncmoe 1"), std::string::npos) << filling_text(filling);
  }
}

TEST(GpuFilling, WhatDoesNotFitAtAllGetsNoExperts) {
  const Described& model = some_layers();
  const RuntimeOptions options = on_gpu(4096);
  for (const int64_t free : {int64_t{0}, int64_t{1}, kGiga, model.needed(options, 0, 512) - 1}) {
    const GpuFilling none = model.filling(options, free);
    EXPECT_TRUE(none.layers.empty()) << free;
    EXPECT_EQ(none.bytes, 0);
    EXPECT_EQ(filling_text(none), "GPU: experts stay in RAM, those of a layer (6.3 GB) do not fit, -cmoe");
  }
}

TEST(GpuFilling, ALimitIsOfAllThatIsInUse) {
  const Described& model = some_layers();
  RuntimeOptions options = on_gpu(4096);
  const int64_t needed = model.needed(options, 2, 4096);
  const GpuFilling two = model.filling(options, needed);
  options.gpu_memory_limit = needed + kInUse;
  EXPECT_EQ(model.filling(options, 100 * kGiga), two);
  options.gpu_memory_limit -= 1;
  EXPECT_EQ(model.filling(options, 100 * kGiga).layers, model.last(1));
  for (const int64_t below_the_least : {int64_t{1}, kInUse, kInUse + 1}) {
    options.gpu_memory_limit = below_the_least;
    EXPECT_TRUE(model.filling(options, 100 * kGiga).layers.empty());
  }
  options.gpu_memory_limit = 200 * kGiga;
  EXPECT_EQ(testing::error_text([&] { static_cast<void>(model.filling(options, 100 * kGiga)); }),
            "--vram-limit: expected 1 to 100600000000, found 200000000000");
}

TEST(GpuFilling, OnlyLayersOfTheGpu) {
  const Described& model = some_layers();
  RuntimeOptions options = on_gpu(4096);
  options.first_gpu_layer = 3;
  const GpuFilling two = model.filling(options, 100 * kGiga);
  EXPECT_EQ(two.layers, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(two.pass_tokens, 512);
  options.first_gpu_layer = 5;
  const GpuFilling head = model.filling(options, 100 * kGiga);
  EXPECT_TRUE(head.layers.empty());
  EXPECT_EQ(filling_text(head), "GPU: no experts there, -cmoe");
  options.first_gpu_layer = 4;
  EXPECT_EQ(filling_text(model.filling(options, 100 * kGiga)),
            "GPU: experts of layer 4 (6.3 GB) there, -ncmoe 4");
  EXPECT_TRUE(model.filling(options, 5 * kGiga).layers.empty());
}

TEST(GpuFilling, WithoutStreamingItsMemoryIsTheExperts) {
  const Described& model = some_layers();
  RuntimeOptions options = on_gpu(32768);
  const int64_t free = model.needed(options, 2, 32768) - 1;
  EXPECT_EQ(model.filling(options, free).layers, model.last(1));
  options.prefill = Prefill::kCpu;
  const GpuFilling filling = model.filling(options, free);
  EXPECT_EQ(filling.layers, model.last(2));
  EXPECT_EQ(filling.pass_tokens, 512);
  options = on_gpu(32768);
  options.expert_memory = ExpertMemory::kMapped;
  EXPECT_EQ(model.filling(options, free), filling);
}

TEST(GpuFilling, OfAnyModelAsMuchAsHasRoom) {
  for (const char* const text :
       {"synth:deepseek-v3.2,dense=1,moe=4,type=nvfp4", "synth:deepseek-v3.2,dense=0,moe=3,type=q8_0",
        "synth:deepseek-v3.2,dense=2,moe=5,type=q4_k,experts=64", "synth:tiny,dense=1,moe=3,type=q8_0"}) {
    SCOPED_TRACE(text);
    const Described model(text);
    const RuntimeOptions options = on_gpu(std::min<int64_t>(8192, model.config.context_length));
    const int64_t moe = model.config.layers - model.config.dense_layers;
    int64_t before = 0;
    for (int64_t free = kGiga / 2; free < 60 * kGiga; free += kGiga / 2) {
      const GpuFilling filling = model.filling(options, free);
      const auto count = static_cast<int64_t>(filling.layers.size());
      EXPECT_EQ(filling.layers, model.last(count));
      EXPECT_GE(count, before);
      before = count;
      if (count > 0) {
        EXPECT_LE(model.needed(options, count, filling.pass_tokens), free);
      }
      if (count < moe) {
        const int64_t pass = count + 1 == moe ? 512 : filling.pass_tokens;
        EXPECT_GT(model.needed(options, count + 1, pass), free);
      }
    }
    EXPECT_EQ(before, moe);
  }
}

TEST(GpuFilling, IsWhatARuntimeIsAskedFor) {
  RuntimeOptions options = on_gpu(4096);
  options.device = Device::kAuto;
  const RuntimeOptions found = filled(options, {.layers = {3, 4}, .bytes = 7, .pass_tokens = 4096});
  EXPECT_EQ(found.device, Device::kGpu);
  EXPECT_EQ(found.gpu_expert_layers, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(found.most_batch, 4096);
  EXPECT_EQ(found.max_batch, 0) << "the runtime chooses by the memory that it finds";
  EXPECT_EQ(found.planned_context, 4096);
}

TEST(AllowedBytes, AreFreeAndWithinTheLimit) {
  const GpuMemory memory{.name = "GPU", .total = 100, .free = 70};
  EXPECT_EQ(allowed_bytes(memory, 0), 70) << "no limit";
  EXPECT_EQ(allowed_bytes(memory, 100), 70);
  EXPECT_EQ(allowed_bytes(memory, 99), 69);
  EXPECT_EQ(allowed_bytes(memory, 31), 1);
  EXPECT_EQ(allowed_bytes(memory, 30), 0);
  EXPECT_EQ(allowed_bytes(memory, 1), 0);
  EXPECT_EQ(allowed_bytes(memory, 500), 70);
}

}  // namespace
}  // namespace sluice
