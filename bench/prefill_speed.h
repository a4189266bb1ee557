// How long prompts take on a GPU with the experts of a synthetic model in memory, streamed to it or computed
// by the CPU, beside what holds that up: page-locked copies, and the GPU's products alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/report.h"
#include "engine/model.h"
#include "engine/synth/model_spec.h"

namespace sluice::bench {

struct PrefillGuard {
  synth::ModelSpec spec;
  std::vector<int64_t> streamed;  // prompts that are streamed whole
  std::vector<int64_t> sizes;     // at which the three ways are compared
  int64_t repeats = 3;            // medians are of so many, of fewer where a prompt takes many seconds
  int64_t threads = 0;            // 0 = all physical cores
};

/// Lines for each of `streamed`: the rate of copies, and the time against the larger of copies and products
/// alone, for which the GPU must have room for all experts and the same passes. Then a line for each of
/// `sizes`: what is chosen against the better of CPU and stream. Throws Error when the model does not fit.
void guard_prefill(const PrefillGuard& guard, Report& report);

}  // namespace sluice::bench
