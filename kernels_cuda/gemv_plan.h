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

/// Warps of a block of the kernel for one or two tokens, at most; with two tokens.
inline constexpr int64_t kGemvStreamWarps = 32;
inline constexpr int kGemvPairWarps = 16;
/// Shared memory that its activations may take: kMostSharedBytes less what its sums take.
inline constexpr int64_t kMostStageBytes = int64_t{90} * 1024;

/// That kernel's cut: a group is `group_panels` panels, each shared by `shares` warps, so that their product
/// is at most the block's warps; a warp's share is `steps_per_share` steps.
struct GemvStreamPlan {
  int64_t group_panels = 0;
  int64_t shares = 0;
  int64_t steps_per_share = 0;

  bool operator==(const GemvStreamPlan&) const = default;
};

struct GemvStreamShape {
  int64_t panels = 0;
  int64_t steps = 0;                 // along the columns
  int64_t depth = 4;                 // steps that a warp has under way
  int64_t least_panels = 1;          // of a group; 2 for gate and up
  int64_t warps = kGemvStreamWarps;  // of a block, a power of two
};

/// Many shares for few panels of many columns. `capacity`: blocks that the GPU holds.
GemvStreamPlan gemv_stream_plan(const GemvStreamShape& shape, int64_t capacity);

}  // namespace sluice::cuda
