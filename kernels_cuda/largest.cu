#include "kernels_cuda/largest.h"

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kBins = 256;

/// Orders as the numbers do, -0.0 as +0.0; a NaN is below all.
__device__ __forceinline__ uint32_t key_of(float value) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0F);
  return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

__global__ void __launch_bounds__(kThreads) argmax_kernel(LogitRows rows, int32_t* ids) {
  __shared__ uint64_t scratch[32];
  const float* row = rows.logits + static_cast<int64_t>(blockIdx.x) * rows.stride;
  // Key above, reversed index below: the larger number is the better choice.
  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < rows.n; i += kThreads) {
    const uint64_t candidate =
        static_cast<uint64_t>(key_of(row[i])) << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(i));
    best = candidate > best ? candidate : best;
  }
  best = combine_block(best, uint64_t{0}, scratch, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  if (threadIdx.x == 0) ids[blockIdx.x] = static_cast<int32_t>(0xFFFFFFFFU - static_cast<uint32_t>(best));
}

struct Threshold {
  uint32_t key;  // the k-th largest
  int ties;      // how many equal to it are among the k largest
};

/// Eight bits of the threshold a pass.
__device__ Threshold find_threshold(const float* row, int n, int k, int* bins) {
  __shared__ uint32_t prefix;
  __shared__ int left;  // of the k, among keys with this prefix
  if (threadIdx.x == 0) {
    prefix = 0;
    left = k;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    const uint32_t above = shift == 24 ? 0 : ~0U << (shift + 8);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      const uint32_t key = key_of(row[i]);
      if ((key & above) == prefix) atomicAdd(bins + (key >> shift & 255U), 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = kBins - 1;
      while (bins[bin] < left) left -= bins[bin--];
      prefix |= static_cast<uint32_t>(bin) << shift;
    }
    __syncthreads();
  }
  return {prefix, left};
}

/// How many earlier threads of the block have the flag set; `total` of all. `scratch` [64].
__device__ int count_before(bool flag, int* scratch, int& total) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t flags = __ballot_sync(0xFFFFFFFFU, flag);
  if (lane == 0) scratch[warp] = __popc(flags);
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    before += w < warp ? scratch[w] : 0;
    total += scratch[w];
  }
  __syncthreads();
  return before + __popc(flags & ((1U << lane) - 1));
}

__global__ void __launch_bounds__(kThreads)
    largest_k_kernel(LogitRows rows, int k, int32_t* ids, float* values) {
  __shared__ int bins[kBins];
  const float* row = rows.logits + static_cast<int64_t>(blockIdx.x) * rows.stride;
  const auto n = static_cast<int>(rows.n);
  ids += static_cast<int64_t>(blockIdx.x) * k;
  values += static_cast<int64_t>(blockIdx.x) * k;
  const Threshold threshold = find_threshold(row, n, k, bins);
  int written = 0;
  int ties_seen = 0;
  for (int begin = 0; begin < n && written < k; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const uint32_t key = i < n ? key_of(row[i]) : 0;
    const bool tie = i < n && key == threshold.key;
    int ties = 0;
    const int ties_before = count_before(tie, bins, ties);  // has barriers: nobody may skip it
    const bool taken = tie ? ties_seen + ties_before < threshold.ties : i < n && key > threshold.key;
    int count = 0;
    const int at = written + count_before(taken, bins, count);
    if (taken) {
      ids[at] = i;
      values[at] = row[i];
    }
    written += count;
    ties_seen += ties;
  }
}

void check_rows(const LogitRows& rows, int64_t k) {
  if (rows.n < 1 || rows.n > INT32_MAX - kThreads || k < 1 || k > rows.n || rows.rows < 0) {
    throw Error("largest logits", "1 to n of rows of n logits",
                std::to_string(k) + " of " + std::to_string(rows.n));
  }
}

LaunchShape shape_of(const LogitRows& rows, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(rows.rows)), .block = dim3(kThreads), .stream = stream};
}

}  // namespace

void argmax(const LogitRows& rows, int32_t* ids, cudaStream_t stream) {
  check_rows(rows, 1);
  if (rows.rows == 0) return;
  launch_kernel(argmax_kernel, "argmax", shape_of(rows, stream), rows, ids);
}

void largest_k(const LogitRows& rows, int64_t k, int32_t* ids, float* values, cudaStream_t stream) {
  check_rows(rows, k);
  if (rows.rows == 0) return;
  launch_kernel(largest_k_kernel, "largest_k", shape_of(rows, stream), rows, static_cast<int>(k), ids,
                values);
}

}  // namespace sluice::cuda
