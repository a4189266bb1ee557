// A model's weights made ready to compute, which takes time and memory: the routed experts, and panels of the
// matrices that all tokens share, in memory or on a GPU. They depend on few options, so that several runtimes
// can compute with them.
#pragma once

#include <memory>
#include <optional>

#include "engine/backends/gpu.h"
#include "engine/backends/panel_weights.h"
#include "engine/model.h"
#include "engine/model_part.h"
#include "engine/routed_experts.h"
#include "engine/runtime.h"
#include "offload/machine.h"
#include "offload/workers.h"

namespace sluice {

class LoadedWeights {
 public:
  /// Of the options count `activations`, `expert_memory`, `numa`, `device`, `first_gpu_layer`,
  /// `gpu_expert_layers`, `prefill` and `expert_cache_bytes` (whether experts are prepared for being copied),
  /// `check_tensors`, `load_progress` and `load_stop`, and for a GPU what its working memory depends on.
  /// Keeps a reference to `model`, none to `workers`. Throws Error and LoadStopped as Runtime's constructor
  /// does.
  LoadedWeights(const Model& model, const RuntimeOptions& options, const offload::Machine& machine,
                offload::Workers& workers);
  LoadedWeights(const LoadedWeights&) = delete;
  LoadedWeights& operator=(const LoadedWeights&) = delete;

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const RoutedExperts& experts() const { return experts_; }
  /// Of the CPU's layers. None when activations are float32 or a GPU has all layers.
  [[nodiscard]] const PanelWeights* panels() const { return panels_ ? &*panels_ : nullptr; }
  /// What a GPU has: all of its layers but the routed experts, and those of some. Null when everything runs
  /// on the CPU.
  [[nodiscard]] const GpuWeights* gpu() const { return gpu_.get(); }
  /// The experts' memory as a GPU copies from it. Null when everything runs on the CPU.
  [[nodiscard]] const GpuHostMemory* gpu_host_memory() const { return gpu_host_memory_.get(); }
  /// Whether a runtime of these options may compute with them.
  [[nodiscard]] bool suit(const RuntimeOptions& options) const;

 private:
  const Model& model_;
  Activations activations_;
  ExpertMemory expert_memory_;
  NumaMode numa_;
  ModelParts parts_;
  std::vector<int64_t> gpu_expert_layers_;
  bool copies_experts_;
  std::unique_ptr<const GpuWeights> gpu_;  // first: a GPU that is too small is known before the long load
  RoutedExperts experts_;
  std::unique_ptr<const GpuHostMemory> gpu_host_memory_;  // of experts_
  std::optional<PanelWeights> panels_;
};

}  // namespace sluice
