// How a product of panels is cut into blocks: a pure function of the shape and the GPU.
#pragma once

#include <cstdint>

namespace sluice::cuda {

/// A block's warps: each takes one panel of the same columns.
inline constexpr int64_t kGemvWarps = 8;
/// No GEMV has more blocks on a multiprocessor at once: 32 warps, 64 registers a thread.
inline constexpr int64_t kMostGemvBlocks = 4;

struct GemvShape {
  int64_t groups = 0;  // of kGemvWarps panels, over all products of the call
  int64_t steps = 0;   // along the columns: what a warp loads at once
  int64_t least = 8;   // steps that a block should have at least
};

/// `slices` blocks share a group, each `steps_per_slice` steps of it (the last one fewer); `blocks` go over
/// the groups together, each taking every blocks-th.
struct GemvPlan {
  int64_t blocks = 0;
  int64_t slices = 0;
  int64_t steps_per_slice = 0;

  bool operator==(const GemvPlan&) const = default;
};

/// All blocks fit on the GPU at once, so that none comes too late: they share the bandwidth and end together.
/// `capacity`: how many the GPU holds. The number of tokens plays no part.
GemvPlan gemv_plan(const GemvShape& shape, int64_t capacity);

}  // namespace sluice::cuda
