// The GEMV of quantized panels for one or two tokens (kernels_cuda/gemv.h): bound by memory, so made to keep
// loads under way without a pause.
//
// Blocks stay for the whole launch. They split the activations once, then go over groups of panels; of a
// panel every warp takes its share of the columns, and the shares meet in shared memory. A warp loads the
// next steps of its walk, over the border of a group too, as it consumes the last ones; the first are loaded
// before the activations are there.
#pragma once

#include "kernels_cuda/device/gemv_args.cuh"
#include "kernels_cuda/device/gemv_sums.cuh"

namespace sluice::cuda {

inline constexpr int kStreamWarps = static_cast<int>(kGemvStreamWarps);  // of a block, at most
inline constexpr int kStreamThreads = 32 * kStreamWarps;

/// Steps [step, step + left) of a panel's columns.
struct PanelWalk {
  const unsigned char* panel;
  int step;
  int left;

  __device__ void advance(int steps) {
    step += steps;
    left -= steps;
  }
  /// Where this lane reads: step `step` on where steps are alike, else step 0.
  template <class Format>
  __device__ PanelLane lane(const GemvArgs& args) const {
    PanelLane lane = PanelLane::of(panel, args.scales_at, static_cast<int>(threadIdx.x) % 32);
    lane.quants += static_cast<int64_t>(step) * Format::kQuantStride;
    lane.scales += static_cast<int64_t>(step) * Format::kScaleStride;
    return lane;
  }
};

template <class Format>
__device__ __forceinline__ typename Format::Raw load_step(const PanelLane& lane, const PanelWalk& walk,
                                                          int i) {
  return Format::load(lane, Format::kQuantStride != 0 ? i : walk.step + i);
}

/// This warp's share of the panel that it has in `group`; nothing when there is none.
__device__ __forceinline__ PanelWalk walk_of(const GemvArgs& args, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  PanelWalk walk{nullptr, 0, 0};
  if (group >= args.groups) return walk;
  walk.panel = panel_of(args, group, warp / args.shares);
  walk.step = warp % args.shares * args.steps_per_slice;
  if (walk.panel != nullptr) walk.left = max(0, min(args.steps_per_slice, args.steps - walk.step));
  return walk;
}

template <class Format>
using RawSteps = typename Format::Raw[Format::kDepth];

template <class Format>
__device__ __forceinline__ void load_steps(const GemvArgs& args, const PanelWalk& walk,
                                           RawSteps<Format>& raw) {
  const PanelLane lane = walk.lane<Format>(args);
#pragma unroll
  for (int i = 0; i < Format::kDepth; ++i) {
    if (i < walk.left) raw[i] = load_step<Format>(lane, walk, i);
  }
}

/// Multiplies what `raw` holds, the first of `left` steps from `step`, and loads the first steps of `ahead`
/// in their place.
template <class Format, class Sums>
__device__ __forceinline__ void consume_steps(int step, int left, const PanelWalk& ahead,
                                              const PanelLane& lane, const typename Sums::Activations& x,
                                              RawSteps<Format>& raw, Sums& sums) {
  constexpr int kDepth = Format::kDepth;
  if (left >= kDepth && ahead.left >= kDepth) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      sums.add_step(raw[i], step + i, x, i * Format::kChunks);
      raw[i] = load_step<Format>(lane, ahead, i);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (i < left) sums.add_step(raw[i], step + i, x, i * Format::kChunks);
    if (i < ahead.left) raw[i] = load_step<Format>(lane, ahead, i);
  }
}

/// The outputs of a group from the shares of its panels, parts [kStreamWarps][kTokens][16], added in their
/// order.
template <int kTokens>
__device__ __forceinline__ void add_shares(const GemvArgs& args, int group, int turn, const float* parts) {
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  const int rows = args.group_panels * kRows;
  // Another warp every time, so that none falls behind.
  const int element = (static_cast<int>(threadIdx.x) + 32 * turn) % static_cast<int>(blockDim.x);
  for (int i = element; i < rows * args.n_tokens; i += static_cast<int>(blockDim.x)) {
    const int token = i / rows;
    write_element(args, group, rows, token, i % rows, [&](int row) {
      const float* from = parts + (row / kRows * args.shares * kTokens + token) * kRows + row % kRows;
      float sum = 0.0F;
#pragma unroll 4
      for (int share = 0; share < args.shares; ++share) sum += from[share * kTokens * kRows];
      return sum;
    });
  }
}

template <class Format, int kTokens>
__global__ void __launch_bounds__(kStreamThreads, kTokens == 1 ? Format::kStreamBlocks : 1)
    gemv_stream_kernel(const __grid_constant__ GemvArgs args) {
  using Sums = GemvSums<Format, kTokens>;
  extern __shared__ uint2 stage_memory[];
  __shared__ __align__(16) float parts[2][kStreamWarps][kTokens][quant::kPanelRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const ActivationStage stage = ActivationStage::at(stage_memory, kTokens, args.steps * Format::kChunks);
  PanelWalk next = walk_of(args, static_cast<int>(blockIdx.x));
  RawSteps<Format> raw;
  load_steps<Format>(args, next, raw);
  let_next_begin();
  wait_for_last();
  load_activations<Format::kOrder>(args.x, args.x_stride, args.n_tokens, 0, stage.chunks, stage);
  __syncthreads();
  Sums sums(args.zeros);
  int turn = 0;
  for (int group = static_cast<int>(blockIdx.x); group < args.groups;
       group += static_cast<int>(gridDim.x), ++turn) {
    PanelWalk now = next;
    next = walk_of(args, group + static_cast<int>(gridDim.x));
    auto x = Sums::Activations::of(stage, static_cast<int>(threadIdx.x) % 32);
    x.advance(now.step * Format::kChunks);
    sums.clear();
    if (now.left == 0) load_steps<Format>(args, next, raw);
    for (bool more = now.left > 0; more; x.advance(Format::kDepth * Format::kChunks)) {
      const int step = now.step;
      const int left = now.left;
      now.advance(Format::kDepth);
      if (now.left <= 0) now = next;
      consume_steps<Format>(step, left, now, now.lane<Format>(args), x, raw, sums);
      more = left > Format::kDepth;
    }
    sums.write(args.n_tokens, parts[turn % 2][warp][0], static_cast<int>(quant::kPanelRows));
    __syncthreads();
    add_shares<kTokens>(args, group, turn, parts[turn % 2][0][0]);
  }
}

}  // namespace sluice::cuda
