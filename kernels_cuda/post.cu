#include "kernels_cuda/post.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 512;
/// Chosen: stores in flight that fill PCIe.
constexpr int64_t kMostBlocks = 64;
constexpr int64_t kWide = 4;  // words of 16 bytes
/// A part up to that is one block's, who needs to wait for no other: a decoded token's 28 KB.
constexpr int64_t kWordsOfOneBlock = 8192;

struct PostArgs {
  PostedPart parts[kMostPostedParts];
  int count;
  uint32_t* flag;
  uint32_t* arrived;
};

__global__ void __launch_bounds__(kThreads) post_kernel(PostArgs args) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  follow_last();
  for (int p = 0; p < args.count; ++p) {
    const PostedPart& part = args.parts[p];
    const int64_t wide = part.words / kWide;
    const auto* from = static_cast<const uint4*>(part.from);
    auto* to = static_cast<uint4*>(part.to);
    for (int64_t i = first; i < wide; i += step) to[i] = from[i];
    const int64_t i = wide * kWide + first;
    if (i < part.words) static_cast<uint32_t*>(part.to)[i] = static_cast<const uint32_t*>(part.from)[i];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence_system();  // of what the whole block wrote: the barrier comes before it
  if (gridDim.x > 1) {
    if (atomicAdd(args.arrived, 1U) + 1 != gridDim.x) return;
    *args.arrived = 0;
    __threadfence_system();
  }
  *static_cast<volatile uint32_t*>(args.flag) = 1;
}

// The host writes x between kernels: no copy of it that a cache may have is good.
__global__ void __launch_bounds__(kThreads)
    add_from_host_kernel(const float* x, int64_t n, float* y, uint32_t* flag) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  let_next_begin();
  for (int64_t i = first; i < n / kWide; i += step) {
    const float4 a = __ldcv(reinterpret_cast<const float4*>(x) + i);
    float4 b = reinterpret_cast<const float4*>(y)[i];
    b = make_float4(b.x + a.x, b.y + a.y, b.z + a.z, b.w + a.w);
    reinterpret_cast<float4*>(y)[i] = b;
  }
  const int64_t i = n / kWide * kWide + first;
  if (i < n) y[i] += __ldcv(x + i);
  if (first == 0) *static_cast<volatile uint32_t*>(flag) = 0;
}

__global__ void __launch_bounds__(kThreads) fetch_kernel(PostedPart part) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const auto* from = static_cast<const uint4*>(part.from);
  for (int64_t i = first; i < part.words / kWide; i += step)
    static_cast<uint4*>(part.to)[i] = __ldcv(from + i);
  const int64_t i = part.words / kWide * kWide + first;
  if (i < part.words)
    static_cast<uint32_t*>(part.to)[i] = __ldcv(static_cast<const uint32_t*>(part.from) + i);
}

unsigned blocks_for(int64_t words) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(words, kWide * kThreads), 1, kMostBlocks));
}

unsigned post_blocks_for(int64_t words) {
  return words <= kWordsOfOneBlock ? 1 : blocks_for(words);
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace

PostScratch::PostScratch() : arrived_(std::vector<uint32_t>(1)) {}

void post(std::span<const PostedPart> parts, const HostFlag& flag, const PostScratch& scratch,
          cudaStream_t stream) {
  if (static_cast<int64_t>(parts.size()) > kMostPostedParts) {
    throw Error("post", "at most three parts", std::to_string(parts.size()));
  }
  PostArgs args{.parts = {},
                .count = static_cast<int>(parts.size()),
                .flag = flag.word(),
                .arrived = scratch.arrived()};
  int64_t most_words = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!is_aligned(parts[p].from) || !is_aligned(parts[p].to)) {
      throw Error("post", "parts aligned to 16 bytes", "one that is not");
    }
    args.parts[p] = parts[p];
    most_words = std::max(most_words, parts[p].words);
  }
  launch_overlapping(post_kernel, "post",
                     {.grid = dim3(post_blocks_for(most_words)), .block = dim3(kThreads), .stream = stream},
                     args);
}

void add_from_host(const float* x, int64_t n, float* y, const HostFlag& flag, cudaStream_t stream) {
  if (!is_aligned(x) || !is_aligned(y)) {
    throw Error("add_from_host", "rows aligned to 16 bytes", "one that is not");
  }
  launch_kernel(add_from_host_kernel, "add_from_host",
                {.grid = dim3(blocks_for(n)), .block = dim3(kThreads), .stream = stream}, x, n, y,
                flag.word());
}

void fetch(const PostedPart& part, cudaStream_t stream) {
  if (!is_aligned(part.from) || !is_aligned(part.to)) {
    throw Error("fetch", "words aligned to 16 bytes", "others");
  }
  if (part.words == 0) return;
  launch_kernel(fetch_kernel, "fetch",
                {.grid = dim3(blocks_for(part.words)), .block = dim3(kThreads), .stream = stream}, part);
}

}  // namespace sluice::cuda
