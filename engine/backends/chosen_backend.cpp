#include "engine/backends/chosen_backend.h"

#include <utility>

#include "engine/backends/cpu_backend.h"
#include "engine/backends/gpu.h"
#include "engine/backends/split_backend.h"

namespace sluice {
namespace {

std::unique_ptr<Backend> cpu_backend(const BackendSources& from, LayerRange layers) {
  return std::make_unique<CpuBackend>(from.model, from.options, layers, from.weights.panels(), from.isa,
                                      from.workers);
}

}  // namespace

std::unique_ptr<Backend> chosen_backend(const BackendSources& from) {
  const ModelConfig& config = from.model.config();
  const ModelParts parts = parts_of(config, from.options);
  if (parts.gpu.empty()) {
    return cpu_backend(from, parts.cpu.layers);
  }
  const LoadedWeights& weights = from.weights;
  auto gpu =
      make_gpu_backend(from.model, {*weights.gpu(), weights.experts().weights(), *weights.gpu_host_memory()},
                       from.options, from.workers);
  if (!parts.divided()) {
    return gpu;
  }
  return std::make_unique<SplitBackend>(config, from.options.first_gpu_layer,
                                        cpu_backend(from, parts.cpu.layers), std::move(gpu));
}

}  // namespace sluice
