// The GEMV of quantized panels for three to eight tokens, and for more columns than gemv_stream.cuh holds
// activations of: a warp multiplies one panel's columns of its block's slice, a stage of activations in
// shared memory at a time.
#pragma once

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/chosen_stream.cuh"
#include "kernels_cuda/device/gemv_args.cuh"
#include "kernels_cuda/device/gemv_stream.cuh"
#include "kernels_cuda/device/gemv_sums.cuh"

namespace sluice::cuda {

/// Chunks whose activations lie in shared memory at once: about 16 KB of them. A multiple of every kChunks.
constexpr int stage_chunks(int tokens) {
  return tokens <= 2 ? 64 : tokens <= 4 ? 32 : 16;
}

/// Steps [first, first + count) of a panel, whose activations start at x.
template <class Format, class Sums>
__device__ __forceinline__ void multiply_steps(const PanelLane& panel, int first, int count,
                                               typename Sums::Activations x, Sums& sums) {
  // Lanes that read zeros do so within kDepth steps; the others need no pointer that moves.
  constexpr bool kAdvances = Format::kGroup == ScaleGroup::kEachTwoLanes;
  for (int begin = 0; begin < count; begin += Format::kDepth) {
    typename Format::Raw raw[Format::kDepth];
#pragma unroll
    for (int i = 0; i < Format::kDepth; ++i) {
      raw[i] = Format::load(panel, first + min(begin + i, count - 1));
    }
#pragma unroll
    for (int i = 0; i < Format::kDepth; ++i) {
      const int step = begin + i;
      if (step < count) sums.add_step(raw[i], first + step, x, (kAdvances ? i : step) * Format::kChunks);
    }
    if constexpr (kAdvances) x.advance(Format::kDepth * Format::kChunks);
  }
}

template <class Format, int kTokens>
__global__ void __launch_bounds__(kGemvThreads, kTokens == 2 && !Format::kHasMin ? 3 : 2)
    gemv_kernel(const __grid_constant__ GemvArgs args) {
  constexpr int kStage = stage_chunks(kTokens);
  constexpr int kStageSteps = kStage / Format::kChunks;
  using Sums = GemvSums<Format, kTokens>;
  __shared__ uint2 stage_memory[ActivationStage::shared_bytes(kTokens, kStage) / sizeof(uint2)];
  __shared__ __align__(16) float totals[kTokens * kGroupRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int begin = static_cast<int>(blockIdx.y) * args.steps_per_slice;
  const int end = min(begin + args.steps_per_slice, args.steps);
  const ActivationStage stage = ActivationStage::at(stage_memory, kTokens, kStage);
  const auto x = Sums::Activations::of(stage, lane);
  follow_last();
  for (int group = static_cast<int>(blockIdx.x); group < args.groups; group += static_cast<int>(gridDim.x)) {
    const unsigned char* panel = panel_of(args, group, warp);
    const PanelLane at = PanelLane::of(panel, args.scales_at, lane);
    Sums sums(args.zeros);
    for (int first = begin; first < end; first += kStageSteps) {
      const int count = min(kStageSteps, end - first);
      __syncthreads();
      load_activations<Format::kOrder, Tokens::kAny, kChunkSums<Format>>(
          EvenRows{args.x, args.x_stride}, args.n_tokens, first * Format::kChunks, count * Format::kChunks,
          stage);
      __syncthreads();
      if (panel != nullptr) multiply_steps<Format>(at, first, count, x, sums);
    }
    if (panel != nullptr)
      sums.write(args.n_tokens, totals + warp * static_cast<int>(quant::kPanelRows), kGroupRows);
    finish_group(args, group, totals);
    __syncthreads();
  }
}

/// What a format's file gives to kernels_cuda/gemv.cu and chosen_experts.cu.
struct GemvFormat {
  void (*launch)(const GemvArgs& args, dim3 grid, cudaStream_t stream);
  int step_cols;
  int blocks;  // on a multiprocessor at once
  /// The kernel of gemv_stream.cuh; null for float weights.
  void (*launch_stream)(const GemvArgs& args, unsigned blocks, cudaStream_t stream);
  /// The kernel of chosen_stream.cuh; null for float weights.
  void (*launch_chosen)(const ChosenArgs& args, unsigned blocks, cudaStream_t stream);
  int stream_warps;  // of a block of those two: as many as a multiprocessor has room for
  int depth;
};

template <class Format>
void launch_gemv(const GemvArgs& args, dim3 grid, cudaStream_t stream) {
  const auto run = [&](auto* kernel) {
    launch_overlapping(kernel, "gemv", {.grid = grid, .block = dim3(kGemvThreads), .stream = stream}, args);
  };
  if (args.n_tokens <= 2) {
    run(gemv_kernel<Format, 2>);
  } else if (args.n_tokens <= 4) {
    run(gemv_kernel<Format, 4>);
  } else {
    run(gemv_kernel<Format, 8>);
  }
}

template <class Format>
void launch_gemv_stream(const GemvArgs& args, unsigned blocks, cudaStream_t stream) {
  const auto run = [&](auto* kernel, int tokens) {
    allow_shared<kMostStageBytes>(kernel, "gemv");
    // Nothing of it profits from L1, and calls of all widths ask for the same division.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "gemv");
    launch_overlapping(kernel, "gemv",
                       {.grid = dim3(blocks),
                        .block = dim3(static_cast<unsigned>(32 * args.group_panels * args.shares)),
                        .shared_bytes = ActivationStage::shared_bytes(tokens, args.cols / 32),
                        .stream = stream},
                       args);
  };
  if (args.n_tokens == 1) {
    run(gemv_stream_kernel<Format, 1>, 1);
  } else {
    run(gemv_stream_kernel<Format, 2>, 2);
  }
}

template <class Format>
inline constexpr GemvFormat kGemvOf{
    launch_gemv<Format>,  32 * Format::kChunks, 2, launch_gemv_stream<Format>, launch_chosen_stream<Format>,
    Format::kStreamWarps, Format::kDepth};

extern const GemvFormat kGemvQ8_0;
extern const GemvFormat kGemvNVFP4;
extern const GemvFormat kGemvMXFP4;
extern const GemvFormat kGemvQ4_0;
extern const GemvFormat kGemvQ5_0;
extern const GemvFormat kGemvQ4_K;
extern const GemvFormat kGemvQ5_K;
extern const GemvFormat kGemvQ6_K;
extern const GemvFormat kGemvF32;
extern const GemvFormat kGemvF16;
extern const GemvFormat kGemvBF16;

/// Null for what is no weight type.
const GemvFormat* gemv_format(quant::DType dtype);

}  // namespace sluice::cuda
