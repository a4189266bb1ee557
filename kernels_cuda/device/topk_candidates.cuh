// Candidates of a chunk of a row, by one block: the scores that reach a guessed pivot, in the order of their
// positions.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/topk_search.cuh"
#include "kernels_cuda/topk_plan.h"

namespace sluice::cuda::device {

inline constexpr uint32_t kWarp = 0xFFFFFFFFU;

/// What a chunk's block says of its candidates: those with a key of at least `pivot_key`.
struct alignas(16) ChunkSummary {
  uint32_t count;
  uint32_t most_key;   // of the chunk
  uint32_t pivot_key;  // the same in all chunks of a row
};
static_assert(sizeof(ChunkSummary) == kTopKSummaryBytes);

inline constexpr int kChunkThreads = kTopKChunk / 4;
inline constexpr int kChunkWarps = kChunkThreads / 32;
inline constexpr int kGuessGroups = 4 * kChunkWarps;

struct ChunkShared {
  alignas(16) uint32_t largest[kGuessGroups];
  uint32_t pivot_key;
  uint32_t warp_hits[kChunkWarps];
  uint32_t warp_most[kChunkWarps];
};

/// Samples of a group, a power of two up to 32, and how many of the kGuessGroups groups should reach the
/// pivot: a share p of the scores reaches it if a share 1 - (1 - p)^samples of the groups does, best about
/// two thirds.
struct GuessGroups {
  int samples;
  int reaching;
};
__device__ __forceinline__ GuessGroups guess_groups(float share) {
  int samples = 1;
  float misses = 1.0F - share;  // (1 - p)^samples
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    if (1.0F - misses * misses <= 0.8F) {
      samples *= 2;
      misses *= misses;
    }
  }
  const float reaching = static_cast<float>(kGuessGroups) * (1.0F - misses);
  return {samples, max(1, static_cast<int>(reaching + 0.5F))};
}

/// Four neighbours of a row of `length`, the thread's own sample of it. The places of a warp's first 2^i
/// lanes are spread over those of the warp.
__device__ __forceinline__ float4 sample_four(const float* scores, int length) {
  const uint32_t thread = threadIdx.x;
  const uint32_t place = thread / 32 * 32 + (__brev(thread) >> 27);
  const uint32_t stretch = static_cast<uint32_t>(length) / 4 / kChunkThreads;
  const uint32_t scattered = static_cast<uint32_t>(uint64_t{thread * 2654435761U} * stretch >> 32);
  return *(reinterpret_cast<const float4*>(scores) + place * stretch + scattered);
}

/// The key of the `reaching`-th largest of the groups' largest scores. A thread compares one of these with an
/// eighth of them. Ends with a barrier.
__device__ __forceinline__ uint32_t key_of_rank(ChunkShared& shared, int reaching) {
  constexpr int kPerGroup = kChunkThreads / kGuessGroups;  // threads
  constexpr int kEach = kGuessGroups / kPerGroup;
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t mine = shared.largest[thread / kPerGroup];
  int greater = 0;
#pragma unroll
  for (int i = 0; i < kEach; i += 4) {
    const auto others = *reinterpret_cast<const uint4*>(shared.largest + thread % kPerGroup * kEach + i);
    greater += (others.x > mine ? 1 : 0) + (others.y > mine ? 1 : 0) + (others.z > mine ? 1 : 0) +
               (others.w > mine ? 1 : 0);
  }
#pragma unroll
  for (int distance = 1; distance < kPerGroup; distance *= 2) {
    greater += __shfl_xor_sync(kWarp, greater, distance);
  }
  // The least of those that fewer than `reaching` exceed.
  const uint32_t least = __reduce_min_sync(kWarp, greater < reaching ? mine : 0xFFFFFFFFU);
  if (thread % 32 == 0) {
    atomicMin(&shared.pivot_key, least);
  }
  __syncthreads();
  return shared.pivot_key;
}

/// A key that about `target` of the row's `length` scores are likely to reach, the same in every block of the
/// row. Only speed depends on the guess. It is 1 at least: a NaN's key never reaches it.
__device__ __forceinline__ uint32_t guess_pivot_key(ChunkShared& shared, const float* scores, int length,
                                                    float target) {
  const float4 sample = sample_four(scores, length);
  const GuessGroups groups = guess_groups(target / static_cast<float>(length));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool counts = lane < groups.samples;
  uint4 largest;  // of the warp's four groups: neighbours are in different ones, as they may be alike
  largest.x = __reduce_max_sync(kWarp, counts ? order_key(sample.x) : 0U);
  largest.y = __reduce_max_sync(kWarp, counts ? order_key(sample.y) : 0U);
  largest.z = __reduce_max_sync(kWarp, counts ? order_key(sample.z) : 0U);
  largest.w = __reduce_max_sync(kWarp, counts ? order_key(sample.w) : 0U);
  if (lane == 0) {
    *reinterpret_cast<uint4*>(shared.largest + threadIdx.x / 8) = largest;
  }
  if (threadIdx.x == 0) {
    shared.pivot_key = 0xFFFFFFFFU;
  }
  __syncthreads();
  return max(key_of_rank(shared, groups.reaching), 1U);
}

/// Writes the candidates among the thread's four keys of positions `first` .. and, by one thread, the chunk's
/// summary.
__device__ __forceinline__ void write_candidates(ChunkShared& shared, const uint32_t (&keys)[4],
                                                 uint32_t pivot_key, int first, uint2* values,
                                                 ChunkSummary* summary) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t lanes_before = (1U << lane) - 1;
  int place = 0;
  uint32_t hits = 0;
  uint32_t most = 0;
#pragma unroll
  for (const uint32_t key : keys) {
    const uint32_t ballot = __ballot_sync(kWarp, key >= pivot_key);
    place += __popc(ballot & lanes_before);
    hits += static_cast<uint32_t>(__popc(ballot));
    most = max(most, key);
  }
  most = __reduce_max_sync(kWarp, most);
  if (lane == 0) {
    shared.warp_hits[warp] = hits;
    shared.warp_most[warp] = most;
  }
  __syncthreads();
  const uint32_t warp_hits = lane < kChunkWarps ? shared.warp_hits[lane] : 0;
  place += static_cast<int>(__reduce_add_sync(kWarp, lane < warp ? warp_hits : 0));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (keys[i] >= pivot_key) {
      values[place++] = make_uint2(keys[i], static_cast<uint32_t>(first + i));
    }
  }
  if (warp == 0) {
    const uint32_t count = __reduce_add_sync(kWarp, warp_hits);
    const uint32_t largest = __reduce_max_sync(kWarp, lane < kChunkWarps ? shared.warp_most[lane] : 0U);
    if (lane == 0) {
      *summary = {count, largest, pivot_key};
    }
  }
}

}  // namespace sluice::cuda::device
