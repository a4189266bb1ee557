// Infinities and NaNs in a model's weights, before they reach an answer.
#pragma once

#include <stop_token>

#include "engine/model.h"
#include "offload/workers.h"

namespace sluice {

enum class TensorsToCheck {
  kAll,
  kAllButExperts,  // those of the routed experts are checked by whoever reads them (offload/expert_store.h)
};

/// Reads the tensors, also those that nothing uses, with all workers; what has no bytes in memory is left
/// out. Throws Error naming file, tensor and place of one infinity or NaN (quant/finite.h), LoadStopped when
/// `stop` was requested.
void check_tensors(const Model& model, TensorsToCheck which, offload::Workers& workers,
                   const std::stop_token& stop);

}  // namespace sluice
