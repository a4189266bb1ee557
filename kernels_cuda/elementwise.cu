#include "kernels_cuda/elementwise.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/silu.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 4096;  // threads go round beyond that

unsigned blocks_for(int64_t n) {
  return static_cast<unsigned>(std::min(ceil_div<int64_t>(n, kThreads), kMostBlocks));
}

template <typename Work>
__global__ void for_each_kernel(int64_t n, Work work) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  follow_last();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) work(i);
}

struct Swiglu {
  const float* gate;
  const float* up;
  float* out;
  __device__ void operator()(int64_t i) const { out[i] = silu(gate[i]) * up[i]; }
};

struct AddScaled {
  const float* x;
  float factor;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = fmaf(factor, x[i], y[i]); }
};

struct ToBf16 {
  Bf16Rows rows;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / rows.n;
    const int64_t col = i % rows.n;
    rows.y[row * rows.y_stride + col] =
        __bfloat16_as_ushort(__float2bfloat16_rn(rows.x[row * rows.x_stride + col]));
  }
};

/// Four columns at a time, of fewer than 2^32 fours.
struct FoursToBf16 {
  Bf16Rows rows;
  uint32_t fours;  // of a row
  __device__ void operator()(int64_t i) const {
    const uint32_t row = static_cast<uint32_t>(i) / fours;
    const uint32_t col = 4 * (static_cast<uint32_t>(i) % fours);
    const float4 x = *reinterpret_cast<const float4*>(rows.x + row * rows.x_stride + col);
    const __nv_bfloat162 y[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
    *reinterpret_cast<uint2*>(rows.y + row * rows.y_stride + col) = *reinterpret_cast<const uint2*>(y);
  }
};

bool comes_in_fours(const Bf16Rows& rows) {
  const auto aligned = [](const void* data, uintptr_t to) {
    return reinterpret_cast<uintptr_t>(data) % to == 0;
  };
  return rows.n % 4 == 0 && rows.x_stride % 4 == 0 && rows.y_stride % 4 == 0 && aligned(rows.x, 16) &&
         aligned(rows.y, 8) && rows.rows * rows.n / 4 <= int64_t{UINT32_MAX};
}

struct AddExperts {
  ExpertSum sum;
  __device__ void operator()(int64_t i) const {
    const int64_t token = i / sum.n;
    const int64_t col = i % sum.n;
    float total = sum.y[i];
    for (int64_t k = 0; k < sum.used; ++k) {
      const int32_t slot = sum.slots[token * sum.used + k];
      if (slot >= 0) total = fmaf(sum.weights[token * sum.used + k], sum.parts[slot * sum.n + col], total);
    }
    sum.y[i] = total;
  }
};

struct FindSlots {
  SlotLookup lookup;
  __device__ void operator()(int64_t i) const {
    const int32_t slot = lookup.slot_of[lookup.ids[i]];
    lookup.slots[i] = slot;
    lookup.parts[i] = slot < 0 ? -1 : static_cast<int32_t>(i);
  }
};

template <typename Work>
void for_each(int64_t n, const Work& work, const char* name, cudaStream_t stream) {
  if (n == 0) return;
  launch_overlapping(for_each_kernel<Work>, name,
                     {.grid = dim3(blocks_for(n)), .block = dim3(kThreads), .stream = stream}, n, work);
}

}  // namespace

void swiglu(const float* gate, const float* up, int64_t n, float* out, cudaStream_t stream) {
  for_each(n, Swiglu{gate, up, out}, "swiglu", stream);
}

void add_scaled(const float* x, float factor, int64_t n, float* y, cudaStream_t stream) {
  for_each(n, AddScaled{x, factor, y}, "add_scaled", stream);
}

void to_bf16(const Bf16Rows& rows, cudaStream_t stream) {
  if (comes_in_fours(rows)) {
    for_each(rows.rows * rows.n / 4, FoursToBf16{rows, static_cast<uint32_t>(rows.n / 4)}, "to_bf16", stream);
  } else {
    for_each(rows.rows * rows.n, ToBf16{rows}, "to_bf16", stream);
  }
}

void add_experts(const ExpertSum& sum, cudaStream_t stream) {
  for_each(sum.n_tokens * sum.n, AddExperts{sum}, "add_experts", stream);
}

void find_slots(const SlotLookup& lookup, cudaStream_t stream) {
  for_each(lookup.choices, FindSlots{lookup}, "find_slots", stream);
}

}  // namespace sluice::cuda
