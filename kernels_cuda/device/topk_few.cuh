// Top-k among few entries, by one block: the candidates of a row (device/topk_candidates.cuh) or all of a
// short one. Every entry is in a register of some thread. Its depth is the largest key less its own: 0 is the
// best. Entries lie in the order of their positions, so those that are selected need only be counted to find
// their places, and of equal ones the first are taken.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/topk_candidates.cuh"

namespace sluice::cuda::device {

inline constexpr int kFewThreads = 512;
inline constexpr int kFewWarps = kFewThreads / 32;
inline constexpr int kFewRounds = kFewTopKCapacity / kFewThreads;  // entries of a thread
inline constexpr int kFewLines = kFewTopKCapacity / 32;            // 32 entries each, one of every lane
inline constexpr int kFewBinBits = 12;
inline constexpr int kFewBins = 1 << kFewBinBits;
inline constexpr int kBinsPerThread = kFewBins / kFewThreads;
inline constexpr int kMostEdge = 32;  // entries at the edge that each warp ranks by itself
inline constexpr int kSummaryRounds = static_cast<int>((kMostTopKScores / kTopKChunk + 31) / 32);
inline constexpr uint32_t kNoDepth = 0xFFFFFFFFU;  // of no score: the largest key is 0xFF800000

struct FewShared {
  alignas(16) uint32_t bins[kFewBins];
  alignas(16) uint32_t edge_depths[kMostEdge];
  uint32_t edge_warps[kMostEdge];
  uint32_t n_edge;
  uint32_t lines[kFewLines];  // of candidates: place of the first << 6 | how many
  uint32_t warp_least[kFewWarps];
  uint32_t warp_most[kFewWarps];
  uint32_t bin_sums[kFewWarps];
  uint32_t tallies[kFewWarps];
  uint32_t n_lines;  // of all chunks: may exceed kFewLines
  uint32_t n_candidates;
  uint32_t most_key;
  uint32_t pivot_key;
};

/// A thread's entries: lane l has entry l of each of its warp's `lines` consecutive lines.
struct FewEntries {
  uint32_t depths[kFewRounds];  // kNoDepth where there is none
  uint32_t positions[kFewRounds];
  uint32_t most_depth;  // of the block's
  int lines;
};

/// each(r) for the rounds that the warp has entries in, and up to three more: what is executed but once
/// should not branch too often, nor be long.
template <typename Each>
__device__ __forceinline__ void for_rounds(const FewEntries& entries, const Each& each) {
#pragma unroll
  for (int first = 0; first < kFewRounds; first += 4) {
    if (first >= entries.lines) {
      break;
    }
#pragma unroll
    for (int r = first; r < first + 4; ++r) {
      each(r);
    }
  }
}

/// The k-th best entry's depth is in [low, low + last]; it is the `wanted`-th best of the `found` there.
struct DepthRange {
  uint32_t low;
  uint32_t last;  // 2^n - 1 once narrowed
  int wanted;
  int found;
};

/// What can be done before there are scores.
__device__ __forceinline__ void clear_bins(FewShared& shared) {
  auto* fours = reinterpret_cast<uint4*>(shared.bins);
#pragma unroll
  for (int i = 0; i < kFewBins / 4; i += kFewThreads) {
    fours[i + static_cast<int>(threadIdx.x)] = make_uint4(0, 0, 0, 0);
  }
}
__device__ __forceinline__ void begin_few(FewShared& shared) {
  clear_bins(shared);
  if (threadIdx.x < kMostEdge) {
    shared.edge_depths[threadIdx.x] = kNoDepth;
  }
  if (threadIdx.x == 0) {
    shared.n_edge = 0;
  }
}

/// The sum of `value` over the lanes up to this one.
__device__ __forceinline__ uint32_t sum_up_to(uint32_t value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(kWarp, value, distance);
    value += lane >= distance ? other : 0;
  }
  return value;
}

/// The summaries of chunks lane, lane + 32, .. of a row; without a look at the row's length, so that both are
/// loaded at once. By the first warp.
struct Summaries {
  ChunkSummary of[kSummaryRounds];
};
__device__ __forceinline__ Summaries load_summaries(const ChunkSummary* of_row, int chunks) {
  Summaries summaries{};
  if (threadIdx.x < 32) {
#pragma unroll
    for (int round = 0; round < kSummaryRounds; ++round) {
      const int chunk = 32 * round + static_cast<int>(threadIdx.x);
      if (chunk < chunks) {
        summaries.of[round] = of_row[chunk];
      }
    }
  }
  return summaries;
}

/// Cuts the candidates of a row's `chunks` chunks into lines and adds the summaries up, into `shared`. By the
/// first warp.
__device__ __forceinline__ void cut_lines(FewShared& shared, const Summaries& summaries, int chunks) {
  const uint32_t lane = threadIdx.x;
  uint32_t counts[kSummaryRounds];
  uint32_t up_to[kSummaryRounds];
  uint32_t n_candidates = 0;
  uint32_t most = 0;
#pragma unroll
  for (int round = 0; round < kSummaryRounds; ++round) {
    const bool is_there = 32 * round + static_cast<int>(lane) < chunks;
    counts[round] = is_there ? summaries.of[round].count : 0;
    up_to[round] = sum_up_to((counts[round] + 31) / 32);
    n_candidates += counts[round];
    most = max(most, is_there ? summaries.of[round].most_key : 0);
  }
  uint32_t n_lines = 0;
#pragma unroll
  for (int round = 0; round < kSummaryRounds; ++round) {
    uint32_t place = (32 * round + lane) * kTopKChunk;
    const uint32_t end = min(n_lines + up_to[round], uint32_t{kFewLines});
    uint32_t line = n_lines + up_to[round] - (counts[round] + 31) / 32;
    n_lines += __shfl_sync(kWarp, up_to[round], 31);
    uint32_t rest = counts[round];
#pragma unroll 1
    for (; line < end; ++line) {
      shared.lines[line] = place << 6 | min(rest, 32U);
      place += 32;
      rest -= 32;
    }
  }
  n_candidates = __reduce_add_sync(kWarp, n_candidates);
  most = __reduce_max_sync(kWarp, most);
  if (lane == 0) {
    shared.n_lines = n_lines;
    shared.n_candidates = n_candidates;
    shared.most_key = most;
    shared.pivot_key = summaries.of[0].pivot_key;
  }
}

/// The entries from a row's candidates, after cut_lines and a barrier.
__device__ __forceinline__ void load_candidates(FewEntries& entries, const FewShared& shared,
                                                const uint2* values) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_lines = shared.n_lines;
  const uint32_t most = shared.most_key;
  const uint32_t lines = (n_lines + kFewWarps - 1) / kFewWarps;
  const uint32_t first = threadIdx.x / 32 * lines;
  const uint32_t end = min(first + lines, n_lines);
  entries.lines = static_cast<int>(lines);
  entries.most_depth = most - shared.pivot_key;
  for_rounds(entries, [&](int r) {
    const uint32_t line = first + static_cast<uint32_t>(r) < end ? shared.lines[first + r] : 0;
    uint2 value = make_uint2(most - kNoDepth, 0);
    if (lane < (line & 63)) {
      value = values[(line >> 6) + lane];
    }
    entries.depths[r] = value.x;
    entries.positions[r] = value.y;
  });
  for_rounds(entries, [&](int r) { entries.depths[r] = most - entries.depths[r]; });  // all are under way
}

/// The entries from all of a row of at most kFewTopKCapacity scores. Has a barrier, after which begin_few has
/// been done, too.
__device__ __forceinline__ void load_row(FewEntries& entries, FewShared& shared, const float* scores,
                                         int length) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  entries.lines = (length + 32 * kFewWarps - 1) / (32 * kFewWarps);
  const int first = 32 * warp * entries.lines + lane;
  const int end = min(32 * (warp + 1) * entries.lines, length);
  float loaded[kFewRounds];
  for_rounds(entries, [&](int r) { loaded[r] = scores[min(first + 32 * r, length - 1)]; });
  uint32_t least = 0xFFFFFFFFU;
  uint32_t most = 0;
  for_rounds(entries, [&](int r) {
    const uint32_t key = order_key(loaded[r]);
    least = min(least, key);
    most = max(most, key);
    entries.depths[r] = ~key;
  });
  least = __reduce_min_sync(kWarp, least);
  most = __reduce_max_sync(kWarp, most);
  if (lane == 0) {
    shared.warp_least[warp] = least;
    shared.warp_most[warp] = most;
  }
  __syncthreads();
  least = __reduce_min_sync(kWarp, shared.warp_least[lane % kFewWarps]);
  most = __reduce_max_sync(kWarp, shared.warp_most[lane % kFewWarps]);
  entries.most_depth = most - least;
  for_rounds(entries, [&](int r) {
    const int i = first + 32 * r;
    entries.depths[r] = i < end ? entries.depths[r] - ~most : kNoDepth;
    entries.positions[r] = static_cast<uint32_t>(i);
  });
}

/// The bin of `wanted` in [1, sum of all bins]; `passed` are those in the bins before it. Every warp finds it
/// by itself. Has a barrier, and begins with one.
struct FoundBin {
  uint32_t bin;
  uint32_t passed;
  uint32_t count;
};
__device__ __forceinline__ FoundBin find_bin(FewShared& shared, uint32_t wanted) {
  static_assert(kBinsPerThread == 8);
  const uint32_t lane = threadIdx.x % 32;
  const auto counts_of = [&](uint32_t thread, uint32_t(&counts)[8]) {
    const auto* fours = reinterpret_cast<const uint4*>(shared.bins) + 2 * thread;
    const uint4 low = fours[0];
    const uint4 high = fours[1];
    const uint32_t all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      counts[i] = all[i];
      sum += all[i];
    }
    return sum;
  };
  uint32_t counts[8];
  __syncthreads();
  const uint32_t sum = __reduce_add_sync(kWarp, counts_of(threadIdx.x, counts));
  if (lane == 0) {
    shared.bin_sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  const uint32_t of_warp = lane < kFewWarps ? shared.bin_sums[lane] : 0;
  const uint32_t warps = sum_up_to(of_warp);
  const int warp = __ffs(static_cast<int>(__ballot_sync(kWarp, warps >= wanted))) - 1;
  uint32_t passed = __shfl_sync(kWarp, warps - of_warp, warp);
  const uint32_t thread = 32 * static_cast<uint32_t>(warp) + lane;
  const uint32_t of_lane = counts_of(thread, counts);
  const uint32_t lanes = passed + sum_up_to(of_lane);
  const int holder = __ffs(static_cast<int>(__ballot_sync(kWarp, lanes >= wanted))) - 1;
  passed = lanes - of_lane;
  uint32_t up_to = passed;
  uint32_t bin = 8 * thread;
#pragma unroll
  for (int i = 0; i < 7; ++i) {
    up_to += counts[i];
    if (up_to < wanted) {
      passed = up_to;
      ++bin;
    }
  }
  bin = __shfl_sync(kWarp, bin, holder);
  passed = __shfl_sync(kWarp, passed, holder);
  return {bin, passed, shared.bins[bin]};
}

/// Narrows the entries' range until what is left of it is taken whole, is small, or is all equal. `k` is less
/// than the number of entries. Begins with a barrier after begin_few().
__device__ __forceinline__ DepthRange find_edge(FewShared& shared, const FewEntries& entries, int k) {
  DepthRange range{0, entries.most_depth, k, 0};
  while (true) {
    const int shift = max(32 - __clz(static_cast<int>(range.last)) - kFewBinBits, 0);
    for_rounds(entries, [&](int r) {
      const uint32_t beyond = entries.depths[r] - range.low;  // huge below `low`
      if (beyond <= range.last) {
        atomicAdd(&shared.bins[beyond >> shift], 1U);
      }
    });
    const FoundBin found = find_bin(shared, static_cast<uint32_t>(range.wanted));
    range = {range.low + (found.bin << shift), (1U << shift) - 1,
             range.wanted - static_cast<int>(found.passed), static_cast<int>(found.count)};
    if (range.wanted == range.found || range.found <= kMostEdge || range.last == 0) {
      return range;
    }
    __syncthreads();
    clear_bins(shared);
    __syncthreads();
  }
}

/// How many entries are before this warp's first: above the range, and of its first `wanted` ones.
struct EntriesBefore {
  int above;
  int at_edge;
};

/// Ranks the edge's entries: the range becomes the depth of the last one taken. `before` becomes what it is
/// for the new range.
__device__ __forceinline__ void rank_edge(const FewShared& shared, DepthRange& range, EntriesBefore& before) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t depth = shared.edge_depths[lane];  // kNoDepth from range.found on
  const bool is_there = lane < range.found;
  int better = 0;
#pragma unroll 1
  for (int i = 0; i < range.found; i += 4) {
    const auto others = *reinterpret_cast<const uint4*>(shared.edge_depths + i);
    better += (others.x < depth ? 1 : 0) + (others.y < depth ? 1 : 0) + (others.z < depth ? 1 : 0) +
              (others.w < depth ? 1 : 0);
  }
  const uint32_t last = __reduce_max_sync(kWarp, is_there && better < range.wanted ? depth : 0U);
  const bool is_before = is_there && shared.edge_warps[lane] < threadIdx.x / 32;
  before.above += __popc(__ballot_sync(kWarp, is_before && depth < last));
  before.at_edge = __popc(__ballot_sync(kWarp, is_before && depth == last));
  const int above = __popc(__ballot_sync(kWarp, depth < last));
  range = {last, 0, range.wanted - above, range.found - above};
}

/// Makes the entries at the edge the best of all where they are taken, and none where they are not. `before`
/// are those of the warps before.
__device__ __forceinline__ void settle_edge(FewEntries& entries, const DepthRange& range, int before) {
  const uint32_t lanes_before = (1U << threadIdx.x % 32) - 1;
  for_rounds(entries, [&](int r) {
    const bool is_at_edge = entries.depths[r] - range.low <= range.last;
    const uint32_t at_edge = __ballot_sync(kWarp, is_at_edge);
    if (is_at_edge) {
      entries.depths[r] = before + __popc(at_edge & lanes_before) < range.wanted ? 0 : kNoDepth;
    }
    before += __popc(at_edge);
  });
}

/// Writes the positions of the entries that are less deep than `bound`, ascending.
__device__ __forceinline__ void write_entries(const FewEntries& entries, uint32_t bound, int32_t* selected,
                                              int place) {
  const uint32_t lanes_before = (1U << threadIdx.x % 32) - 1;
  for_rounds(entries, [&](int r) {
    const bool is_taken = entries.depths[r] < bound;
    const uint32_t taken = __ballot_sync(kWarp, is_taken);
    if (is_taken) {
      selected[place + __popc(taken & lanes_before)] = static_cast<int32_t>(entries.positions[r]);
    }
    place += __popc(taken);
  });
}

/// Writes the positions of the k best entries, ascending. `k` is less than their number. After a barrier
/// after begin_few().
__device__ __forceinline__ void select_entries(FewShared& shared, FewEntries& entries, int k,
                                               int32_t* selected) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  DepthRange range = find_edge(shared, entries, k);
  const bool ranks = range.wanted < range.found && range.found <= kMostEdge;
  uint32_t tally = 0;  // above the range, and in it << 16
  for_rounds(entries, [&](int r) {
    const uint32_t depth = entries.depths[r];
    tally += depth < range.low ? 1U : 0U;
    if (depth - range.low <= range.last) {
      tally += 1U << 16;
      if (ranks) {
        const uint32_t place = atomicInc(&shared.n_edge, kMostEdge);
        shared.edge_depths[place] = depth;
        shared.edge_warps[place] = warp;
      }
    }
  });
  tally = __reduce_add_sync(kWarp, tally);
  if (lane == 0) {
    shared.tallies[warp] = tally;
  }
  __syncthreads();
  const uint32_t of_others = __reduce_add_sync(kWarp, lane < warp ? shared.tallies[lane % kFewWarps] : 0U);
  EntriesBefore before{static_cast<int>(of_others & 0xFFFF), static_cast<int>(of_others >> 16)};
  if (ranks) {
    rank_edge(shared, range, before);
  }
  if (tally >> 16 != 0) {
    settle_edge(entries, range, before.at_edge);
  }
  write_entries(entries, max(range.low, 1U), selected, before.above + min(before.at_edge, range.wanted));
}

}  // namespace sluice::cuda::device
