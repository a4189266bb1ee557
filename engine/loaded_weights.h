// A model's weights made ready to compute, which takes time and memory: the routed experts, and panels of the
// matrices that all tokens share. They depend on few options, so that several runtimes can compute with them.
#pragma once

#include <optional>

#include "engine/backends/panel_weights.h"
#include "engine/model.h"
#include "engine/routed_experts.h"
#include "engine/runtime.h"
#include "offload/machine.h"
#include "offload/workers.h"

namespace sluice {

class LoadedWeights {
 public:
  /// Of the options count `activations`, `expert_memory`, `numa`, `check_tensors`, `load_progress` and
  /// `load_stop`. Keeps a reference to `model`, none to `workers`. Throws Error and LoadStopped as Runtime's
  /// constructor does.
  LoadedWeights(const Model& model, const RuntimeOptions& options, const offload::Machine& machine,
                offload::Workers& workers);
  LoadedWeights(const LoadedWeights&) = delete;
  LoadedWeights& operator=(const LoadedWeights&) = delete;

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const RoutedExperts& experts() const { return experts_; }
  /// None when activations are float32.
  [[nodiscard]] const PanelWeights* panels() const { return panels_ ? &*panels_ : nullptr; }
  /// Whether a runtime of these options may compute with them.
  [[nodiscard]] bool suit(const RuntimeOptions& options) const;

 private:
  const Model& model_;
  Activations activations_;
  ExpertMemory expert_memory_;
  NumaMode numa_;
  RoutedExperts experts_;
  std::optional<PanelWeights> panels_;
};

}  // namespace sluice
