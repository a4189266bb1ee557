// What the GEMV kernels are told, and how a block of them ends: sums of slices, scales, SwiGLU.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/silu.cuh"
#include "kernels_cuda/gemv.h"

namespace sluice::cuda {

/// One product of a launch.
struct GemvTarget {
  const unsigned char* panels;
  float* y;
  int64_t stride;
  int panel_count;
  int rows;
  int first_group;
  float scale;
};

struct GemvArgs {
  GemvTarget targets[kMostGemvProducts];
  int n_targets;
  bool swiglu;  // targets 0 and 1 are gate and up: a group is half of each; y is target 1's
  int groups;
  int steps;            // along the columns
  int steps_per_slice;  // of a block (gemv_kernel.cuh) or a warp (gemv_stream.cuh)
  int group_panels;
  int shares;         // gemv_stream.cuh: warps that a panel is shared by
  uint32_t zeros[4];  // AccumulatorStart
  int n_tokens;
  int cols;
  int64_t panel_bytes;
  int64_t scales_at;
  const float* x;
  int64_t x_stride;
  float* partials;    // [groups][slices][n_tokens][kGroupRows]
  uint32_t* arrived;  // [groups]
};

/// Of gemv_kernel.cuh and the float kernels: a panel for every warp.
inline constexpr int kGroupRows = static_cast<int>(kGemvWarps * quant::kPanelRows);
inline constexpr int kGemvThreads = static_cast<int>(kGemvWarps * 32);

/// The product that a group belongs to; not for swiglu.
__device__ __forceinline__ int target_of_group(const GemvArgs& args, int group) {
  int target = 0;
#pragma unroll
  for (int i = 1; i < kMostGemvProducts; ++i) {
    if (i < args.n_targets && group >= args.targets[i].first_group) target = i;
  }
  return target;
}

/// Panel `index` of a group: null when the group has none.
__device__ __forceinline__ const unsigned char* panel_of(const GemvArgs& args, int group, int index) {
  const int half = args.group_panels / 2;
  const int target = args.swiglu ? (index < half ? 0 : 1) : target_of_group(args, group);
  const GemvTarget& t = args.targets[target];
  const int panel = args.swiglu ? group * half + (index < half ? index : index - half)
                                : (group - t.first_group) * args.group_panels + index;
  return panel < t.panel_count ? t.panels + panel * args.panel_bytes : nullptr;
}

/// y of one element of a group of `rows` rows; `value(row)` is the whole sum of row `row` of the group.
template <typename Value>
__device__ __forceinline__ void write_element(const GemvArgs& args, int group, int rows, int token, int row,
                                              const Value& value) {
  if (args.swiglu) {
    const int half = rows / 2;
    const int r = group * half + row;
    if (row >= half || r >= args.targets[1].rows) return;
    const float gate = value(row) * args.targets[0].scale;
    const float up = value(row + half) * args.targets[1].scale;
    args.targets[1].y[token * args.targets[1].stride + r] = silu(gate) * up;
    return;
  }
  const GemvTarget& t = args.targets[target_of_group(args, group)];
  const int r = (group - t.first_group) * rows + row;
  if (r < t.rows) t.y[token * t.stride + r] = value(row) * t.scale;
}

/// All threads of the block, after `sums` [n_tokens][kGroupRows] is complete: this slice's part of the
/// group's sums. The block that comes last of a group's adds up the slices in their order, so the order of
/// arrival changes nothing.
__device__ __forceinline__ void finish_group(const GemvArgs& args, int group, const float* sums) {
  __shared__ bool last;
  __syncthreads();
  const int elements = args.n_tokens * kGroupRows;
  const auto slices = static_cast<int>(gridDim.y);
  if (slices == 1) {
    for (int i = static_cast<int>(threadIdx.x); i < elements; i += kGemvThreads) {
      const int token = i / kGroupRows;
      write_element(args, group, kGroupRows, token, i % kGroupRows,
                    [&](int row) { return sums[token * kGroupRows + row]; });
    }
    return;
  }
  float* of_group = args.partials + static_cast<int64_t>(group) * slices * elements;
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kGemvThreads) {
    __stcg(of_group + static_cast<int64_t>(blockIdx.y) * elements + i, sums[i]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(args.arrived + group, 1U) == static_cast<uint32_t>(slices - 1);
    if (last) args.arrived[group] = 0;  // for the next call
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kGemvThreads) {
    const int token = i / kGroupRows;
    write_element(args, group, kGroupRows, token, i % kGroupRows, [&](int row) {
      const float* from = of_group + token * kGroupRows + row;
      float sum = 0.0F;
#pragma unroll 8
      for (int s = 0; s < slices; ++s) {
        sum += __ldcg(from + static_cast<int64_t>(s) * elements);
      }
      return sum;
    });
  }
}

}  // namespace sluice::cuda
