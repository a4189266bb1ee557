// What finding a sampler's candidates takes: without CUDA.
#pragma once

#include <cstdint>

namespace sluice::cuda {

inline constexpr int64_t kMostCandidates = 1024;

/// Whether candidates of a row of n logits can be found.
bool sampling_takes(int64_t n);

/// Where the parts of the scratch begin.
struct SamplingScratch {
  int64_t lengths = 0;  // behind the state
  int64_t counts = 0;
  int64_t selected = 0;
  int64_t top_k = 0;
  int64_t bytes = 0;
};
SamplingScratch sampling_scratch(int64_t n);

}  // namespace sluice::cuda
