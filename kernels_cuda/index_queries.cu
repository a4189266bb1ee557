// Indexer queries for the score kernels: rotated and rounded to int8, or split into two bf16. A warp has a
// head; lane l has the dimensions l, l + 32, ..
#include <cuda_bf16.h>

#include <bit>
#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/indexer.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kLaneValues = 8;
constexpr int kMostDims = 32 * kLaneValues;

struct Args {
  const float* heads;
  const float* weights;
  IndexQueries out;
  int64_t n_rows;  // queries x heads
  int d_index;
  IndexKeyFormat format;
};

/// The orthonormal Walsh-Hadamard transform of d values, d a power of two.
__device__ void rotate(float (&x)[kLaneValues], int d) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int distance = 1; distance < min(d, 32); distance *= 2) {
#pragma unroll
    for (float& value : x) {
      const float other = __shfl_xor_sync(0xFFFFFFFFU, value, distance);
      value = (lane & distance) != 0 ? other - value : value + other;
    }
  }
#pragma unroll
  for (int distance = 1; distance < kLaneValues; distance *= 2) {
    if (32 * distance < d) {
#pragma unroll
      for (int i = 0; i < kLaneValues; ++i) {
        if ((i & distance) == 0) {
          const float a = x[i];
          const float b = x[i + distance];
          x[i] = a + b;
          x[i + distance] = a - b;
        }
      }
    }
  }
  const float by = rsqrtf(static_cast<float>(d));
#pragma unroll
  for (float& value : x) {
    value *= by;
  }
}

__device__ float largest_magnitude(const float (&x)[kLaneValues]) {
  float largest = 0.0F;
#pragma unroll
  for (const float value : x) {
    largest = fmaxf(largest, fabsf(value));
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
  }
  return largest;
}

/// Writes value `i` of the output in its format; `codes_per_unit` is 0 for a row of zeros.
__device__ void write_value(const Args& args, int64_t i, float value, float codes_per_unit) {
  if (args.format == IndexKeyFormat::kF32) {
    static_cast<float*>(args.out.values)[i] = value;
  } else if (args.format == IndexKeyFormat::kBf16) {
    const __nv_bfloat16 upper = __float2bfloat16(value);
    static_cast<__nv_bfloat16*>(args.out.values)[i] = upper;
    static_cast<__nv_bfloat16*>(args.out.low)[i] = __float2bfloat16(value - __bfloat162float(upper));
  } else {
    static_cast<int8_t*>(args.out.values)[i] = static_cast<int8_t>(__float2int_rn(value * codes_per_unit));
  }
}

__global__ void __launch_bounds__(kThreads) index_queries(const Args args) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  follow_last();
  if (row >= args.n_rows) {
    return;
  }
  float x[kLaneValues];
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    const int dim = lane + 32 * i;
    x[i] = dim < args.d_index ? args.heads[row * args.d_index + dim] : 0.0F;
  }
  float scale = 1.0F;
  float codes_per_unit = 0.0F;
  if (args.format == IndexKeyFormat::kInt8) {
    rotate(x, args.d_index);
    const float largest = largest_magnitude(x);
    scale = largest / 127.0F;
    codes_per_unit = largest > 0.0F ? 127.0F / largest : 0.0F;
  }
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    const int dim = lane + 32 * i;
    if (dim < args.d_index) {
      write_value(args, row * args.d_index + dim, x[i], codes_per_unit);
    }
  }
  if (lane == 0) {
    args.out.weights[row] = 0.5F * args.weights[row] * scale;
  }
}

}  // namespace

void launch_index_queries(const IndexQueryParams& p, cudaStream_t stream) {
  const bool is_int8 = p.format == IndexKeyFormat::kInt8;
  if (p.d_index < 1 || p.d_index > kMostDims ||
      (is_int8 && !std::has_single_bit(static_cast<uint64_t>(p.d_index)))) {
    throw Error("index queries on the GPU", "1 to 256 dimensions, a power of two for int8",
                std::to_string(p.d_index));
  }
  const Args args{.heads = p.heads,
                  .weights = p.weights,
                  .out = p.out,
                  .n_rows = p.n_queries * p.n_heads,
                  .d_index = static_cast<int>(p.d_index),
                  .format = p.format};
  if (args.n_rows == 0) {
    return;
  }
  launch_overlapping(index_queries, "index_queries",
                     {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(args.n_rows, kWarps))),
                      .block = dim3(kThreads),
                      .stream = stream},
                     args);
}

}  // namespace sluice::cuda
