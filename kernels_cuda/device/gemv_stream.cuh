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

inline constexpr int kStreamWarps = static_cast<int>(kGemvStreamWarps);
inline constexpr int kStreamThreads = 32 * kStreamWarps;

/// Steps [step, step + left) of a panel's columns, as this lane reads them.
template <class Format>
struct PanelWalk {
  const unsigned char* quants;  // as in PanelLane; where kQuantStride is not 0, advanced to `step`
  const unsigned char* scales;
  int step;
  int left;

  __device__ void advance(int steps) {
    quants += steps * Format::kQuantStride;
    scales += steps * Format::kScaleStride;
    step += steps;
    left -= steps;
  }
  __device__ typename Format::Raw load(int i) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return Format::load({quants, scales, lane / 4, lane % 4}, Format::kQuantStride != 0 ? i : step + i);
  }
};

/// This warp's share of the panel that it has in `group`; nothing when there is none.
template <class Format>
__device__ __forceinline__ PanelWalk<Format> walk_of(const GemvArgs& args, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  PanelWalk<Format> walk{nullptr, nullptr, 0, 0};
  if (group >= args.groups) return walk;
  const unsigned char* panel = panel_of(args, group, warp / args.shares);
  const int step = warp % args.shares * args.steps_per_slice;
  if (panel == nullptr || step >= args.steps) return walk;
  const PanelLane lane = PanelLane::of(panel, args.scales_at, static_cast<int>(threadIdx.x) % 32);
  walk = {lane.quants, lane.scales, 0, 0};
  walk.advance(step);
  walk.left = min(args.steps_per_slice, args.steps - step);
  return walk;
}

template <class Format>
using RawSteps = typename Format::Raw[Format::kDepth];

template <class Format>
__device__ __forceinline__ void load_steps(const PanelWalk<Format>& walk, RawSteps<Format>& raw) {
#pragma unroll
  for (int i = 0; i < Format::kDepth; ++i) {
    if (i < walk.left) raw[i] = walk.load(i);
  }
}

/// Multiplies what `raw` holds, the first steps of `now`, and loads the first steps of `ahead` in their
/// place.
template <class Format, class Sums>
__device__ __forceinline__ void consume_steps(int step, int left, const PanelWalk<Format>& ahead,
                                              const typename Sums::Activations& x, RawSteps<Format>& raw,
                                              Sums& sums) {
  constexpr int kDepth = Format::kDepth;
  if (left >= kDepth && ahead.left >= kDepth) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      sums.add_step(raw[i], step + i, x, i * Format::kChunks);
      raw[i] = ahead.load(i);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (i < left) sums.add_step(raw[i], step + i, x, i * Format::kChunks);
    if (i < ahead.left) raw[i] = ahead.load(i);
  }
}

/// The outputs of a group from the shares of its panels, parts [kStreamWarps][kTokens][16], added in their
/// order.
template <int kTokens>
__device__ __forceinline__ void add_shares(const GemvArgs& args, int group, int turn, const float* parts) {
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  const int rows = kStreamWarps / args.shares * kRows;
  // Another warp every time, so that none falls behind.
  const int element = (static_cast<int>(threadIdx.x) + 32 * turn) % kStreamThreads;
  if (element >= rows * args.n_tokens) return;
  const int token = element / rows;
  write_element(args, group, rows, token, element % rows, [&](int row) {
    const float* from = parts + (row / kRows * args.shares * kTokens + token) * kRows + row % kRows;
    float sum = 0.0F;
#pragma unroll 4
    for (int share = 0; share < args.shares; ++share) sum += from[share * kTokens * kRows];
    return sum;
  });
}

template <class Format, int kTokens>
__global__ void __launch_bounds__(kStreamThreads, Format::kStreamBlocks)
    gemv_stream_kernel(const __grid_constant__ GemvArgs args) {
  using Sums = GemvSums<Format, kTokens>;
  extern __shared__ uint2 stage_memory[];
  __shared__ __align__(16) float parts[2][kStreamWarps][kTokens][quant::kPanelRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const ActivationStage stage = ActivationStage::at(stage_memory, kTokens, args.steps * Format::kChunks);
  PanelWalk<Format> next = walk_of<Format>(args, static_cast<int>(blockIdx.x));
  RawSteps<Format> raw;
  load_steps<Format>(next, raw);
  let_next_begin();
  wait_for_last();
  load_activations<Format::kOrder>(args.x, args.x_stride, args.n_tokens, 0, stage.chunks, stage);
  __syncthreads();
  int turn = 0;
  for (int group = static_cast<int>(blockIdx.x); group < args.groups;
       group += static_cast<int>(gridDim.x), ++turn) {
    PanelWalk<Format> now = next;
    next = walk_of<Format>(args, group + static_cast<int>(gridDim.x));
    auto x = Sums::Activations::of(stage, static_cast<int>(threadIdx.x) % 32);
    x.advance(now.step * Format::kChunks);
    Sums sums;
    if (now.left == 0) {
      load_steps<Format>(next, raw);
    } else
      while (true) {
        const int step = now.step;
        const int left = now.left;
        now.advance(Format::kDepth);
        if (now.left <= 0) now = next;
        consume_steps<Format>(step, left, now, x, raw, sums);
        if (left <= Format::kDepth) break;
        x.advance(Format::kDepth * Format::kChunks);
      }
    sums.write(args.n_tokens, parts[turn % 2][warp][0], static_cast<int>(quant::kPanelRows));
    __syncthreads();
    add_shares<kTokens>(args, group, turn, parts[turn % 2][0][0]);
  }
}

}  // namespace sluice::cuda
