#include "kernels_cuda/group_tokens.h"

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;

/// A block for each expert: counts its pairs and those of smaller experts.
__global__ void __launch_bounds__(kThreads) count_kernel(const int32_t* ids, int n, TokenGroups groups) {
  __shared__ int scratch[2][32];
  const auto expert = static_cast<int>(blockIdx.x);
  int before = 0;
  int mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    before += ids[i] < expert ? 1 : 0;
    mine += ids[i] == expert ? 1 : 0;
  }
  const auto add = [](int a, int b) { return a + b; };
  before = combine_block(before, 0, scratch[0], add);
  mine = combine_block(mine, 0, scratch[1], add);
  if (threadIdx.x == 0) {
    groups.begins[expert] = before;
    if (expert + 1 == static_cast<int>(gridDim.x)) groups.begins[expert + 1] = before + mine;
  }
}

/// A block for each expert: gives its pairs their slots in order.
__global__ void __launch_bounds__(kThreads)
    place_kernel(const int32_t* ids, int n, int used, TokenGroups groups) {
  __shared__ int counts[kThreads / 32];
  const auto expert = static_cast<int>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int next = groups.begins[expert];
  for (int begin = 0; begin < n; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const bool mine = i < n && ids[i] == expert;
    const uint32_t flags = __ballot_sync(0xFFFFFFFFU, mine);
    if (threadIdx.x % 32 == 0) counts[warp] = __popc(flags);
    __syncthreads();
    int slot = next + __popc(flags & ((1U << threadIdx.x % 32) - 1));
    for (int w = 0; w < kThreads / 32; ++w) {
      slot += w < warp ? counts[w] : 0;
      next += counts[w];
    }
    if (mine) {
      groups.tokens[slot] = i / used;
      groups.slots[i] = slot;
    }
    __syncthreads();
  }
}

}  // namespace

void group_tokens(const int32_t* ids, int64_t n_tokens, int64_t used, int64_t experts,
                  const TokenGroups& groups, cudaStream_t stream) {
  if (n_tokens < 0 || used < 1 || experts < 1 || n_tokens * used > INT32_MAX) {
    throw Error("group_tokens", "choices among at least one expert", "others");
  }
  const auto n = static_cast<int>(n_tokens * used);
  const auto blocks = static_cast<unsigned>(experts);
  const LaunchShape shape{.grid = dim3(blocks), .block = dim3(kThreads), .stream = stream};
  launch_kernel(count_kernel, "group_tokens: count", shape, ids, n, groups);
  if (n == 0) return;
  launch_kernel(place_kernel, "group_tokens: place", shape, ids, n, static_cast<int>(used), groups);
}

}  // namespace sluice::cuda
