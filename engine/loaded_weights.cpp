#include "engine/loaded_weights.h"

#include "engine/check_tensors.h"
#include "engine/load_stopped.h"

namespace sluice {
LoadedWeights::LoadedWeights(const Model& model, const RuntimeOptions& options,
                             const offload::Machine& machine, offload::Workers& workers)
    : model_(model),
      activations_(options.activations),
      expert_memory_(options.expert_memory),
      numa_(options.numa),
      experts_(model, options, machine, workers) {
  if (options.activations == Activations::kInt8) {
    panels_.emplace(model.weights(), workers, options.load_stop);
  }
  if (options.check_tensors) {
    check_tensors(model, experts_.loaded() ? TensorsToCheck::kAllButExperts : TensorsToCheck::kAll, workers,
                  options.load_stop);
  }
  throw_if_stopped(options.load_stop);
}

bool LoadedWeights::suit(const RuntimeOptions& options) const {
  return options.activations == activations_ && options.expert_memory == expert_memory_ &&
         options.numa == numa_;
}

}  // namespace sluice
