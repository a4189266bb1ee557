// Random models and machines for plans.
#pragma once

#include "offload/machine_profile.h"
#include "offload/plan_model.h"
#include "support/random_tensors.h"

namespace sluice::testing {

/// 1 to 12 layers, some of them without experts; those of a token are much more than what is shared, as in
/// models of this kind.
offload::PlanModel random_plan_model(Random& random);

/// A machine whose GPU is faster than its CPU at everything, as they are.
offload::MachineProfile random_machine(Random& random);

}  // namespace sluice::testing
