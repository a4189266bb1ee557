#include "engine/loaded_weights.h"

#include "engine/check_tensors.h"
#include "engine/load_stopped.h"

namespace sluice {
namespace {

std::unique_ptr<const GpuWeights> gpu_weights(const Model& model, const RuntimeOptions& options,
                                              offload::Workers& workers) {
  if (parts_of(model.config(), options).gpu.empty()) {
    return nullptr;
  }
  return load_gpu_weights(model, options, workers);
}

}  // namespace

LoadedWeights::LoadedWeights(const Model& model, const RuntimeOptions& options,
                             const offload::Machine& machine, offload::Workers& workers)
    : model_(model),
      activations_(options.activations),
      expert_memory_(options.expert_memory),
      numa_(options.numa),
      parts_(parts_of(model.config(), options)),
      gpu_expert_layers_(options.gpu_expert_layers),
      copies_experts_(copies_experts(options)),
      gpu_(gpu_weights(model, options, workers)),
      experts_(model, options, machine, workers) {
  if (options.activations == Activations::kInt8 && !parts_.cpu.empty()) {
    panels_.emplace(model.weights(), parts_.cpu, workers, options.load_stop);
  }
  if (options.check_tensors) {
    // Experts that are loaded into memory were checked on the way; those of a GPU were not.
    const bool experts_checked = experts_.loaded() && options.gpu_expert_layers.empty();
    check_tensors(model, experts_checked ? TensorsToCheck::kAllButExperts : TensorsToCheck::kAll, workers,
                  options.load_stop);
  }
  throw_if_stopped(options.load_stop);
  if (gpu_ != nullptr) {
    gpu_host_memory_ = prepare_host_memory(experts_.weights(), options);
  }
}

bool LoadedWeights::suit(const RuntimeOptions& options) const {
  return options.activations == activations_ && options.expert_memory == expert_memory_ &&
         options.numa == numa_ && parts_of(model_.config(), options) == parts_ &&
         options.gpu_expert_layers == gpu_expert_layers_ && (copies_experts_ || !copies_experts(options));
}

}  // namespace sluice
