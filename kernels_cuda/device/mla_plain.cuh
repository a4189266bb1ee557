// The plain attention kernel: float32, any shape and format, a block per query and head. Slow; its sums round
// nothing else, so it serves float32 caches and odd shapes.
#pragma once

#include "kernels_cuda/device/latent.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/mla.h"

namespace sluice::cuda::device {

inline constexpr int kPlainThreads = 256;
inline constexpr int kPlainWarps = kPlainThreads / 32;
inline constexpr int kPlainRows = 256;  // of a tile: a row for each thread in the softmax

struct PlainArgs {
  const void* queries;
  const uint8_t* rows;
  const int32_t* selected;
  const int32_t* counts;
  void* out;
  float* log_sum_exp;
  int64_t row_bytes;
  int64_t selected_stride;
  uint32_t n_rows;
  int n_heads;
  int d_latent;
  int d_rope;
  float softmax_scale;
  LatentFormat format;
  FloatType query_type;
  FloatType out_type;
};

/// Dynamic shared memory: the query, then the output's sums.
constexpr int64_t plain_shared_bytes(int64_t d_latent, int64_t d_rope) {
  return static_cast<int64_t>(sizeof(float)) * (2 * d_latent + d_rope);
}

__device__ __forceinline__ float load_float(const void* values, FloatType type, int64_t i) {
  return type == FloatType::kF32 ? static_cast<const float*>(values)[i]
                                 : __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
}

/// The largest or the sum over the block, for all threads.
template <typename Join>
__device__ __forceinline__ float block_reduce(float value, float (&parts)[kPlainWarps], Join join) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = join(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  }
  if (threadIdx.x % 32 == 0) {
    parts[threadIdx.x / 32] = value;
  }
  __syncthreads();
  value = parts[0];
  for (int warp = 1; warp < kPlainWarps; ++warp) {
    value = join(value, parts[warp]);
  }
  __syncthreads();
  return value;
}

__device__ __forceinline__ int plain_row(const PlainArgs& args, int64_t query, int count, int i) {
  if (i >= count) {
    return -1;
  }
  const int row = args.selected != nullptr ? args.selected[query * args.selected_stride + i] : i;
  return static_cast<uint32_t>(row) < args.n_rows ? row : -1;
}

/// scores[i] of the tile's rows; -infinity for a row that is not there.
__device__ __forceinline__ void plain_scores(const PlainArgs& args, const float* q,
                                             const int (&rows)[kPlainRows], float (&scores)[kPlainRows]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < kPlainRows; i += kPlainWarps) {
    float sum = 0.0F;
    if (rows[i] >= 0) {
      const uint8_t* row = args.rows + rows[i] * args.row_bytes;
      for (int dim = lane; dim < args.d_latent + args.d_rope; dim += 32) {
        sum = fmaf(q[dim], latent_value(args.format, row, args.d_latent, dim), sum);
      }
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
    }
    if (lane == 0) {
      scores[i] = rows[i] >= 0 ? sum * args.softmax_scale : -INFINITY;
    }
  }
}

/// Grid: x = query * heads + head.
__global__ void __launch_bounds__(kPlainThreads) mla_plain(const PlainArgs args) {
  SLUICE_DYNAMIC_SHARED(float, plain_shared);
  __shared__ float parts[kPlainWarps];
  __shared__ int rows[kPlainRows];
  __shared__ float scores[kPlainRows];
  const int thread = static_cast<int>(threadIdx.x);
  const int dims = args.d_latent + args.d_rope;
  const int64_t query = blockIdx.x / args.n_heads;
  float* q = plain_shared;
  float* out = plain_shared + dims;
  for (int dim = thread; dim < dims; dim += kPlainThreads) {
    q[dim] = load_float(args.queries, args.query_type, int64_t{blockIdx.x} * dims + dim);
  }
  for (int column = thread; column < args.d_latent; column += kPlainThreads) {
    out[column] = 0.0F;
  }
  const int count = args.counts[query];
  float max = -1e30F;
  float sum = 0.0F;
  for (int first = 0; first < count; first += kPlainRows) {
    rows[thread] = plain_row(args, query, count, first + thread);
    __syncthreads();
    plain_scores(args, q, rows, scores);
    __syncthreads();
    const float score = scores[thread];
    const float larger = fmaxf(max, block_reduce(score, parts, [](float a, float b) { return fmaxf(a, b); }));
    const float rescale = expf(max - larger);
    const float weight = expf(score - larger);
    max = larger;
    sum = sum * rescale + block_reduce(weight, parts, [](float a, float b) { return a + b; });
    scores[thread] = weight;
    __syncthreads();
    for (int column = thread; column < args.d_latent; column += kPlainThreads) {
      float total = out[column] * rescale;
      for (int i = 0; i < kPlainRows; ++i) {
        if (rows[i] >= 0) {
          total = fmaf(scores[i],
                       latent_value(args.format, args.rows + rows[i] * args.row_bytes, args.d_latent, column),
                       total);
        }
      }
      out[column] = total;
    }
    __syncthreads();
  }
  const float by = sum > 0.0F ? 1.0F / sum : 0.0F;
  for (int column = thread; column < args.d_latent; column += kPlainThreads) {
    const int64_t position = int64_t{blockIdx.x} * args.d_latent + column;
    if (args.out_type == FloatType::kF32) {
      static_cast<float*>(args.out)[position] = out[column] * by;
    } else {
      static_cast<__nv_bfloat16*>(args.out)[position] = __float2bfloat16(out[column] * by);
    }
  }
  if (thread == 0 && args.log_sum_exp != nullptr) {
    args.log_sum_exp[blockIdx.x] = sum > 0.0F ? max + logf(sum) : -INFINITY;
  }
}

}  // namespace sluice::cuda::device
