#include "kernels_cuda/rope.h"

#include <algorithm>
#include <bit>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/rotate.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void rope_kernel(RopeParams p) {
  const int64_t pairs = p.dims / 2;
  const int64_t all = p.n_tokens * p.n_heads * pairs;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  follow_last();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += step) {
    const int64_t token = i / (p.n_heads * pairs);
    const int64_t head = i / pairs % p.n_heads;
    rotate_pair(p.x + token * p.token_stride + head * p.head_stride, p.cos_sin + p.positions[token] * p.dims,
                static_cast<int>(i % pairs), static_cast<int>(p.dims), p.layout);
  }
}

__global__ void hadamard_kernel(float* x, int n) {
  __shared__ float values[kMostHadamard];
  float* mine = x + static_cast<int64_t>(blockIdx.x) * n;
  follow_last();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) values[i] = mine[i];
  hadamard_in_block(values, n);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) mine[i] = values[i];
}

}  // namespace

void rope(const RopeParams& params, cudaStream_t stream) {
  if (params.dims < 2 || params.dims % 2 != 0)
    throw Error("rope", "an even number of dims", std::to_string(params.dims));
  const int64_t pairs = params.n_tokens * params.n_heads * params.dims / 2;
  if (pairs == 0) return;
  const int64_t blocks = std::min<int64_t>(ceil_div<int64_t>(pairs, kThreads), 4096);
  launch_overlapping(rope_kernel, "rope",
                     {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .stream = stream},
                     params);
}

void hadamard(float* x, int64_t count, int64_t n, cudaStream_t stream) {
  if (n < 1 || n > kMostHadamard || !std::has_single_bit(static_cast<uint64_t>(n))) {
    throw Error("hadamard", "a power of two up to 1024", std::to_string(n));
  }
  if (count == 0) return;
  const auto threads = static_cast<unsigned>(std::max<int64_t>(32, n / 2));
  launch_overlapping(hadamard_kernel, "hadamard",
                     {.grid = dim3(static_cast<unsigned>(count)), .block = dim3(threads), .stream = stream},
                     x, static_cast<int>(n));
}

}  // namespace sluice::cuda
