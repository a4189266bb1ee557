// What each number of layers with experts in RAM would give: the choice that a plan makes, seen from beside.
#pragma once

#include <string>

#include "engine/cli/planning.h"
#include "offload/machine_profile.h"

namespace sluice::cli {

/// A line for each of some values of -ncmoe, all experts on the GPU to none, with its bytes and predicted
/// rates or that it does not fit; the one of `chosen`, which was made with these options, is marked. Empty
/// where no layer with experts is the GPU's. Throws Error as make_report() does.
std::string ncmoe_table(const PlannedModel& model, const offload::MachineProfile& machine,
                        const PlanningOptions& options, const PlanReport& chosen);

}  // namespace sluice::cli
