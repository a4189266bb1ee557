// Sparse attention over many queries by gathering and cuBLAS (cuda_gather_rival.h): checked against
// launch_mla, then timed at its best setting.
#pragma once

#include <array>
#include <cstdint>

#include "bench/cuda_attention_cases.h"
#include "bench/cuda_gather_rival.h"

namespace sluice::bench {

struct GatherSeconds {
  ScoreType scores = ScoreType::kF32;
  int64_t chunk = 0;              // queries at a time
  double whole = 0.0;             // of a call
  std::array<double, 4> parts{};  // what each GatherPart adds to a call
};

/// The fastest chunk for scores of this type, on the inputs that mla_seconds times bf16 rows with. Throws
/// Error where a query's output is not that of launch_mla.
GatherSeconds gather_seconds(const AttentionCase& which, ScoreType scores);

}  // namespace sluice::bench
