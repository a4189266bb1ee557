#include "engine/model_part.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/backends/gpu.h"
#include "engine/runtime.h"

namespace sluice {

ModelPart whole_model(const ModelConfig& config) {
  return {.layers = {0, config.layers}, .embedding = true, .head = true};
}

ModelParts divided_at(const ModelConfig& config, int64_t first_gpu_layer) {
  const bool divided = first_gpu_layer > 0;
  return {.cpu = {.layers = {0, first_gpu_layer}, .embedding = divided, .head = false},
          .gpu = {.layers = {first_gpu_layer, config.layers}, .embedding = !divided, .head = true}};
}

ModelParts parts_of(const ModelConfig& config, const RuntimeOptions& options) {
  return chosen_device(options.device) == Device::kGpu ? divided_at(config, options.first_gpu_layer)
                                                       : ModelParts{.cpu = whole_model(config), .gpu = {}};
}

int64_t first_gpu_layer(int64_t layers, int64_t gpu_layers) {
  return layers + 1 - std::clamp<int64_t>(gpu_layers, 0, layers + 1);
}

std::string division_text(const ModelParts& parts) {
  const int64_t on_cpu = parts.cpu.layers.count();
  const int64_t on_gpu = parts.gpu.layers.count();
  const std::string there =
      on_gpu == 0 ? "the head" : fmt::format("{} of {} layers and the head", on_gpu, on_cpu + on_gpu);
  return fmt::format("{} there; {} layer{} and", there, on_cpu, on_cpu == 1 ? "" : "s");
}

}  // namespace sluice
