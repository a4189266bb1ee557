#include "kernels_cuda/row_lists.h"

#include <cuda_bf16.h>

#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWide = 4;  // columns that a thread takes at once
constexpr int64_t kMostUsed = 32;

/// Two bf16 in a word, low half first, as floats.
__device__ __forceinline__ float2 floats_of(uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000U)};
}

/// A block for each row.
__global__ void __launch_bounds__(kThreads) gather_rows_kernel(GatheredRows rows) {
  const int64_t i = blockIdx.x;
  const auto* from = reinterpret_cast<const uint2*>(rows.x + rows.list[i] * rows.n);
  auto* to = reinterpret_cast<float4*>(rows.y + i * rows.n);
  for (int64_t c = threadIdx.x; c < rows.n / kWide; c += kThreads) {
    const uint2 words = from[c];
    const float2 low = floats_of(words.x);
    const float2 high = floats_of(words.y);
    to[c] = make_float4(low.x, low.y, high.x, high.y);
  }
}

// The host may write x between kernels: no copy of it that a cache has is good.
__global__ void __launch_bounds__(kThreads) add_rows_kernel(AddedRows rows) {
  const int64_t i = blockIdx.x;
  const auto* from = reinterpret_cast<const float4*>(rows.x + i * rows.n);
  auto* to = reinterpret_cast<float4*>(rows.y + __ldcv(rows.list + i) * rows.n);
  for (int64_t c = threadIdx.x; c < rows.n / kWide; c += kThreads) {
    const float4 a = __ldcv(from + c);
    const float4 b = to[c];
    to[c] = make_float4(b.x + a.x, b.y + a.y, b.z + a.z, b.w + a.w);
  }
}

/// A block for each token; most have nothing to do.
__global__ void __launch_bounds__(kThreads) add_slots_kernel(SlotSum sum) {
  __shared__ int32_t parts[kMostUsed];
  __shared__ float weights[kMostUsed];
  __shared__ int found;
  const int64_t token = blockIdx.x;
  if (threadIdx.x == 0) {
    int count = 0;
    for (int64_t k = 0; k < sum.used; ++k) {
      const int64_t part = sum.slots[token * sum.used + k] - sum.first_slot;
      if (part < 0 || part >= sum.count) continue;
      parts[count] = static_cast<int32_t>(part);
      weights[count++] = sum.weights[token * sum.used + k];
    }
    found = count;
  }
  __syncthreads();
  const int count = found;
  if (count == 0) return;
  auto* y = reinterpret_cast<float4*>(sum.y + token * sum.n);
  for (int64_t c = threadIdx.x; c < sum.n / kWide; c += kThreads) {
    float4 total = y[c];
    for (int i = 0; i < count; ++i) {
      const float4 part = reinterpret_cast<const float4*>(sum.parts + parts[i] * sum.n)[c];
      total.x = fmaf(weights[i], part.x, total.x);
      total.y = fmaf(weights[i], part.y, total.y);
      total.z = fmaf(weights[i], part.z, total.z);
      total.w = fmaf(weights[i], part.w, total.w);
    }
    y[c] = total;
  }
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

void require_rows(const char* name, int64_t rows, int64_t n, const void* x, const void* y) {
  if (rows < 0 || rows > INT32_MAX || n < 1 || n % kWide != 0) {
    throw Error(name, "rows of a width in multiples of 4", std::to_string(rows) + " of " + std::to_string(n));
  }
  if (!is_aligned(x) || !is_aligned(y)) {
    throw Error(name, "rows aligned to 16 bytes", "others");
  }
}

/// A block for each row.
LaunchShape shape_of(int64_t rows, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream};
}

}  // namespace

void gather_rows(const GatheredRows& rows, cudaStream_t stream) {
  require_rows("gather_rows", rows.rows, rows.n, rows.x, rows.y);
  if (rows.rows == 0) return;
  launch_kernel(gather_rows_kernel, "gather_rows", shape_of(rows.rows, stream), rows);
}

void add_rows(const AddedRows& rows, cudaStream_t stream) {
  require_rows("add_rows", rows.rows, rows.n, rows.x, rows.y);
  if (rows.rows == 0) return;
  launch_kernel(add_rows_kernel, "add_rows", shape_of(rows.rows, stream), rows);
}

void add_slots(const SlotSum& sum, cudaStream_t stream) {
  require_rows("add_slots", sum.n_tokens, sum.n, sum.parts, sum.y);
  if (sum.used < 1 || sum.used > kMostUsed) {
    throw Error("add_slots", "1 to 32 experts per token", std::to_string(sum.used));
  }
  if (sum.n_tokens == 0 || sum.count == 0) return;
  launch_kernel(add_slots_kernel, "add_slots", shape_of(sum.n_tokens, stream), sum);
}

}  // namespace sluice::cuda
