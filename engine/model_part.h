// What of a model one backend computes, and so what it holds weights and cache rows of.
#pragma once

#include <cstdint>
#include <string>

#include "engine/model_config.h"

namespace sluice {

struct RuntimeOptions;

/// Layers begin, begin + 1, ... end - 1.
struct LayerRange {
  int64_t begin = 0;
  int64_t end = 0;

  [[nodiscard]] int64_t count() const { return end - begin; }
  [[nodiscard]] bool has(int64_t layer) const { return layer >= begin && layer < end; }
  bool operator==(const LayerRange&) const = default;
};

struct ModelPart {
  LayerRange layers;
  bool embedding = false;
  bool head = false;  // the final norm, too

  [[nodiscard]] bool empty() const { return layers.count() == 0 && !embedding && !head; }
  bool operator==(const ModelPart&) const = default;
};

ModelPart whole_model(const ModelConfig& config);

/// Either may be empty.
struct ModelParts {
  ModelPart cpu;
  ModelPart gpu;

  [[nodiscard]] bool divided() const { return !cpu.empty() && !gpu.empty(); }
  bool operator==(const ModelParts&) const = default;
};

/// With a GPU that gets the layers from `first_gpu_layer` on, if there are any, and the head. Routed experts
/// are not meant: they may be the CPU's in any layer.
ModelParts divided_at(const ModelConfig& config, int64_t first_gpu_layer);

/// By `device`, kAuto being resolved, and `first_gpu_layer`.
ModelParts parts_of(const ModelConfig& config, const RuntimeOptions& options);

/// llama.cpp's count for -ngl, which takes the head for one more layer behind the last: the first layer that
/// a GPU with room for `gpu_layers` of them gets. `layers`: the head alone; layers + 1: nothing.
int64_t first_gpu_layer(int64_t layers, int64_t gpu_layers);

/// Of a model that is divided: "31 of 61 layers and the head there; 30 layers and", before the experts that
/// the CPU has.
std::string division_text(const ModelParts& parts);

}  // namespace sluice
