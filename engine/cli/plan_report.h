// A plan for people and for programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "offload/machine_profile.h"
#include "offload/plan.h"
#include "offload/prediction.h"

namespace sluice::cli {

struct PlanReport {
  std::string model;
  int64_t model_bytes = 0;  // of all tensors in the file
  offload::MachineProfile machine;
  offload::Plan plan;
  std::vector<offload::DecodePrediction> decode;
  std::vector<offload::PrefillPrediction> prefill;
};

/// The flags that give this placement: "-c 32768 -ub 512 -ngl 62 -ncmoe 58".
std::string flags_of(const offload::Plan& plan);

/// A table per device, then the predictions. Ends with a line break.
std::string to_text(const PlanReport& report);
/// The same as one JSON object.
std::string to_json(const PlanReport& report);

/// "-c 16384, -ngl 40": what alone would help; empty when nothing does.
std::string remedies_text(const offload::Plan& plan);

}  // namespace sluice::cli
