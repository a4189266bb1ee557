// The GEMV of quantized panels for one or two tokens (kernels_cuda/gemv.h): bound by memory, so made to keep
// loads under way without a pause.
//
// A block for each multiprocessor stays for the whole launch. It splits the activations once, then goes over
// groups of panels; of a panel every warp takes its share of the columns, and the shares of several groups
// meet in shared memory at once. A warp loads the next steps of its walk, over the border of a group too, as
// it consumes the last ones; before the activations are there it loads the first and asks the L2 for more.
#pragma once

#include "kernels_cuda/device/gemv_args.cuh"
#include "kernels_cuda/device/gemv_sums.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/ptx.cuh"
#include "kernels_cuda/device/shared_memory.cuh"

namespace sluice::cuda {

/// Warps of a block, at most.
template <class Format, int kTokens>
inline constexpr int kStreamWarps = kTokens == 1 ? Format::kStreamWarps : kGemvPairWarps;
/// Groups whose shares wait in shared memory to be added up together.
inline constexpr int kStreamTurns = 4;
/// Lanes that add up one output.
inline constexpr int kAddingLanes = 4;

/// Steps [step, step + left) of a panel's columns, and where this lane reads: at step `step` where steps are
/// alike, else at step 0.
template <class Format>
struct PanelWalk {
  const unsigned char* quants;
  const unsigned char* scales;
  int step;
  int left;

  __device__ void advance(int steps) {
    quants += steps * Format::kQuantStride;
    scales += steps * Format::kScaleStride;
    step += steps;
    left -= steps;
  }
  [[nodiscard]] __device__ PanelLane lane() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return {quants, scales, lane / 4, lane % 4};
  }
};

template <class Format>
__device__ __forceinline__ typename Format::Raw load_step(const PanelLane& lane,
                                                          const PanelWalk<Format>& walk, int i) {
  return Format::load(lane, Format::kQuantStride != 0 ? i : walk.step + i);
}

/// This warp's share of the panel that it has in `group`; nothing when there is none.
template <class Format>
__device__ __forceinline__ PanelWalk<Format> walk_of(const GemvArgs& args, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  PanelWalk<Format> walk{nullptr, nullptr, 0, 0};
  if (group >= args.groups) return walk;
  const unsigned char* panel = panel_of(args, group, warp / args.shares);
  if (panel == nullptr) return walk;
  const PanelLane lane = PanelLane::of(panel, args.scales_at, static_cast<int>(threadIdx.x) % 32);
  walk.quants = lane.quants;
  walk.scales = lane.scales;
  walk.advance(warp % args.shares * args.steps_per_slice);
  walk.left = max(0, min(args.steps_per_slice, args.steps - walk.step));
  return walk;
}

template <class Format>
using RawSteps = typename Format::Raw[Format::kDepth];

template <class Format>
__device__ __forceinline__ void load_steps(const PanelWalk<Format>& walk, RawSteps<Format>& raw) {
  const PanelLane lane = walk.lane();
#pragma unroll
  for (int i = 0; i < Format::kDepth; ++i) {
    if (i < walk.left) raw[i] = load_step<Format>(lane, walk, i);
  }
}

/// Asks the L2 for what the warp will read after its first steps, a line for each lane: 4 KB, so that large
/// matrices do not drive each other out.
template <class Format>
__device__ __forceinline__ void ask_for_more(const PanelWalk<Format>& walk, int lane) {
  if constexpr (Format::kQuantStride != 0) {
    constexpr int kLine = 128;
    const int at = lane * kLine;
    const int more = walk.left - Format::kDepth;
    const unsigned char* quants = walk.quants - PanelLane::offset_of(lane);
    if (at < more * Format::kQuantStride)
      ptx::prefetch_to_l2(quants + Format::kDepth * Format::kQuantStride + at);
    if (at < more * Format::kScaleStride)
      ptx::prefetch_to_l2(walk.scales + Format::kDepth * Format::kScaleStride + at);
  }
}

/// Multiplies what `raw` holds, the first of `left` steps from `step`, and loads the first steps of `ahead`
/// in their place.
template <class Format, class Sums>
__device__ __forceinline__ void consume_steps(int step, int left, const PanelWalk<Format>& ahead,
                                              const typename Sums::Activations& x, RawSteps<Format>& raw,
                                              Sums& sums) {
  constexpr int kDepth = Format::kDepth;
  const PanelLane lane = ahead.lane();
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

/// The outputs of `turns` groups from `first` on, every gridDim.x-th, from the shares of their panels: parts
/// [turns][warps][kTokens][16], added in a fixed order.
template <int kTokens>
__device__ __forceinline__ void add_shares(const GemvArgs& args, int first, int turns, const float* parts) {
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int rows = args.group_panels * kRows;
  const int elements = rows * args.n_tokens;
  const int lane = static_cast<int>(threadIdx.x) % kAddingLanes;
  const uint32_t together = ((1U << kAddingLanes) - 1U) << (threadIdx.x % 32 - threadIdx.x % kAddingLanes);
  for (int i = static_cast<int>(threadIdx.x) / kAddingLanes; i < turns * elements;
       i += static_cast<int>(blockDim.x) / kAddingLanes) {
    const int turn = i / elements;
    const int token = kTokens == 1 ? 0 : i % elements / rows;
    const float* of_turn = parts + turn * warps * kTokens * kRows;
    const int group = first + turn * static_cast<int>(gridDim.x);
    write_element(args, group, rows, token, i % rows, [&](int row) {  // all lanes write the same
      const float* from = of_turn + (row / kRows * args.shares * kTokens + token) * kRows + row % kRows;
      float sum = 0.0F;
#pragma unroll 4
      for (int share = lane; share < args.shares; share += kAddingLanes) sum += from[share * kTokens * kRows];
#pragma unroll
      for (int distance = 1; distance < kAddingLanes; distance *= 2)
        sum += __shfl_xor_sync(together, sum, distance);
      return sum;
    });
  }
}

template <class Format, int kTokens>
__global__ void __launch_bounds__(32 * kStreamWarps<Format, kTokens>, 1)
    gemv_stream_kernel(const __grid_constant__ GemvArgs args) {
  using Sums = GemvSums<Format, kTokens>;
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  SLUICE_DYNAMIC_SHARED(uint2, stage_memory);
  __shared__ float parts[kStreamTurns * kStreamWarps<Format, kTokens> * kTokens * kRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const auto blocks = static_cast<int>(gridDim.x);
  let_next_begin();
  const ActivationStage stage = ActivationStage::at(stage_memory, kTokens, args.steps * Format::kChunks);
  PanelWalk<Format> ahead =
      walk_of<Format>(args, static_cast<int>(blockIdx.x));  // what is loaded and not consumed yet
  RawSteps<Format> raw;
  load_steps<Format>(ahead, raw);
  ask_for_more<Format>(ahead, static_cast<int>(threadIdx.x) % 32);
  wait_for_last();
  load_activations<Format::kOrder, kTokens == 1 ? Tokens::kOne : Tokens::kAny, kChunkSums<Format>>(
      EvenRows{args.x, args.x_stride}, args.n_tokens, 0, stage.chunks, stage);
  __syncthreads();
  Sums sums(args.zeros);
  int turn = 0;
  for (int group = static_cast<int>(blockIdx.x); group < args.groups; group += blocks) {
    int step = ahead.step;
    int left = ahead.left;
    auto x = Sums::Activations::of(stage, static_cast<int>(threadIdx.x) % 32);
    x.advance(step * Format::kChunks);
    sums.clear();
    if (left == 0) {
      ahead = walk_of<Format>(args, group + blocks);
      load_steps<Format>(ahead, raw);
    }
    for (; left > 0; left -= Format::kDepth, step += Format::kDepth) {
      ahead.advance(Format::kDepth);
      if (ahead.left <= 0) ahead = walk_of<Format>(args, group + blocks);
      consume_steps<Format>(step, left, ahead, x, raw, sums);
      x.advance(Format::kDepth * Format::kChunks);
    }
    sums.write(args.n_tokens, parts + (turn * warps + warp) * kTokens * kRows, kRows);
    ++turn;
    const bool last = group + blocks >= args.groups;
    if (turn < kStreamTurns && !last) continue;
    __syncthreads();
    add_shares<kTokens>(args, group - (turn - 1) * blocks, turn, parts);
    turn = 0;
    if (!last) __syncthreads();
  }
}

}  // namespace sluice::cuda
