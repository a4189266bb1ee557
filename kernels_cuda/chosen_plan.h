// How the matrices that tokens chose are cut into jobs of warps: a pure function of the shape and the GPU.
#pragma once

#include <cstdint>

namespace sluice::cuda {

/// Jobs whose sums lie in shared memory at once: a multiple of a block's warps.
inline constexpr int64_t kMostChosenJobs = 128;

struct ChosenShape {
  int64_t panels = 0;    // of a matrix
  int64_t matrices = 1;  // of an expert that a launch reads: 2 for gate and up
  int64_t used = 0;      // experts of a token
  int64_t steps = 0;     // along the columns
  int64_t depth = 4;     // steps that a warp has under way
  int64_t warps = 32;    // of a block
};

/// A panel's columns are `shares` jobs, a power of two, of `steps_per_share` steps each, a multiple of the
/// depth (the last ones fewer or none).
struct ChosenPlan {
  int64_t shares = 0;
  int64_t steps_per_share = 0;

  bool operator==(const ChosenPlan&) const = default;
};

/// Blocks, one for each multiprocessor, take panels in equal parts. The number of tokens plays no part, so
/// the order of a token's sums is its own.
ChosenPlan chosen_plan(const ChosenShape& shape, int64_t multiprocessors);

}  // namespace sluice::cuda
