// Top-k of rows. The scores that a guessed pivot lets through, some more than k, are listed in shared memory
// in one sweep of the row, and the search goes on in the list. If the guess was too high or too low, the
// search sweeps the row itself: slower, the same result. Selected positions become bits, and the bits are
// read in order.
#include "kernels_cuda/topk.h"

#include <algorithm>
#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/device/topk_search.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using device::Listed;
using device::WholeRow;

constexpr int kChunk = kTopKChunk;
constexpr int kRowSamples = 3584;

// 49 KB, so that two blocks fit where a multiprocessor has 100 KB.
using RowShared = device::TopKShared<512, 3584>;
using FewShared = device::TopKShared<1024, kFewTopKCapacity>;
static_assert(sizeof(uint2) == kTopKCandidateBytes);

constexpr int kChunkThreads = kChunk / 4;

/// Candidates that collect_candidates found: those of a row's chunk from chunk * kChunk on.
struct Candidates {
  uint2* values;    // [n_rows, chunks * kChunk] key, position
  int32_t* counts;  // [n_rows, chunks]
  int chunks;
};

struct TopKArgs {
  const float* scores;
  const int32_t* lengths;
  int32_t* selected;
  int32_t* counts;
  int64_t score_stride;
  int k;
  Candidates candidates;
};

template <typename Shared>
__device__ void list_one(Shared& shared, uint32_t key, uint32_t position) {
  const uint32_t place = atomicAdd(&shared.n_listed, 1U);
  if (place < Shared::kCapacity) {
    shared.keys[place] = key;
    shared.positions[place] = position;
  }
}

/// Lists the scores of at least `pivot`.
template <typename Shared>
__device__ void list_row(Shared& shared, const float* scores, int length, float pivot) {
  constexpr int kLoads = 4;
  const int whole = length / 4;
  const auto* fours = reinterpret_cast<const float4*>(scores);
  for (int first = static_cast<int>(threadIdx.x); first < whole; first += kLoads * Shared::kThreads) {
    float4 loaded[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int i = first + j * Shared::kThreads;
      loaded[j] = i < whole ? __ldcs(fours + i) : make_float4(NAN, NAN, NAN, NAN);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const float values[4] = {loaded[j].x, loaded[j].y, loaded[j].z, loaded[j].w};
      const auto position = static_cast<uint32_t>(4 * (first + j * Shared::kThreads));
      if (values[0] >= pivot || values[1] >= pivot || values[2] >= pivot || values[3] >= pivot) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          if (values[part] >= pivot) {
            list_one(shared, device::order_key(values[part]), position + static_cast<uint32_t>(part));
          }
        }
      }
    }
  }
  const int last = 4 * whole + static_cast<int>(threadIdx.x);
  if (last < length && scores[last] >= pivot) {
    list_one(shared, device::order_key(scores[last]), static_cast<uint32_t>(last));
  }
}

/// Lists all scores, NaN too.
template <typename Shared>
__device__ void list_all(Shared& shared, const float* scores, int length) {
  for (int i = static_cast<int>(threadIdx.x); i < length; i += Shared::kThreads) {
    shared.keys[i] = device::order_key(scores[i]);
    shared.positions[i] = static_cast<uint32_t>(i);
  }
  if (threadIdx.x == 0) {
    shared.n_listed = static_cast<uint32_t>(length);
  }
}

/// Lists what collect_candidates found in the row: a warp copies its chunks, having summed the counts of
/// those before. `counts` are those of chunks lane and lane + 32.
constexpr int kChunkRounds = 2;

template <typename Shared>
__device__ void list_candidates(Shared& shared, const Candidates& candidates, int64_t row,
                                const int (&counts)[kChunkRounds], int length) {
  static_assert(Shared::kThreads == 1024 && kMostTopKScores <= kChunkRounds * 32 * kChunk);
  constexpr int kLoads = 8;  // at once: most chunks have no more
  const int chunks = (length + kChunk - 1) / kChunk;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int total = 0;
#pragma unroll
  for (int round = 0; round < kChunkRounds; ++round) {
    if (32 * round >= chunks) break;
    int up_to = lane + 32 * round < chunks ? counts[round] : 0;
    const int mine = __shfl_sync(0xFFFFFFFFU, up_to, warp);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFU, up_to, distance);
      up_to += lane >= distance ? other : 0;
    }
    const int first = total + __shfl_sync(0xFFFFFFFFU, up_to, warp) - mine;
    total += __shfl_sync(0xFFFFFFFFU, up_to, 31);
    const uint2* from = candidates.values + (row * candidates.chunks + warp + 32 * round) * kChunk;
    const int end = min(mine, Shared::kCapacity - first);
    for (int begin = lane; begin < end; begin += 32 * kLoads) {
      uint2 values[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) values[j] = from[min(begin + 32 * j, mine - 1)];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const int i = begin + 32 * j;
        if (i >= end) break;
        shared.keys[first + i] = values[j].x;
        shared.positions[first + i] = values[j].y;
      }
    }
  }
  if (threadIdx.x == 0) {
    shared.n_listed = static_cast<uint32_t>(total);
  }
}

/// The counts of chunks lane and lane + 32 of a row, whatever they are behind the row's end: asked for with
/// the row's length, not after it.
__device__ __forceinline__ void load_counts(const Candidates& candidates, int64_t row,
                                            int (&counts)[kChunkRounds]) {
#pragma unroll
  for (int round = 0; round < kChunkRounds; ++round) {
    const int chunk = static_cast<int>(threadIdx.x) % 32 + 32 * round;
    counts[round] = chunk < candidates.chunks ? candidates.counts[row * candidates.chunks + chunk] : 0;
  }
}

template <typename Shared, typename ForEach>
__device__ void set_bits(Shared& shared, int length, const ForEach& for_each) {
  const uint64_t least = shared.search.low;
  for (int i = static_cast<int>(threadIdx.x); 32 * i < length; i += Shared::kThreads) {
    shared.bits[i] = 0;
  }
  __syncthreads();
  for_each([&](uint32_t key, uint32_t position) {
    if (device::order_value(key, position) >= least) {
      atomicOr(&shared.bits[position / 32], 1U << (position % 32));
    }
  });
  __syncthreads();
}

/// The positions of the set bits, ascending.
template <typename Shared>
__device__ void write_positions(Shared& shared, int length, int32_t* selected) {
  const int words = (length + 31) / 32;
  const int per_thread = (words + Shared::kThreads - 1) / Shared::kThreads;
  const int begin = min(words, static_cast<int>(threadIdx.x) * per_thread);
  const int end = min(words, begin + per_thread);
  uint32_t count = 0;
  for (int i = begin; i < end; ++i) {
    count += static_cast<uint32_t>(__popc(shared.bits[i]));
  }
  int32_t* to = selected + device::sum_before(shared, count);
  for (int i = begin; i < end; ++i) {
    for (uint32_t word = shared.bits[i]; word != 0; word &= word - 1) {
      *to++ = 32 * i + __ffs(static_cast<int>(word)) - 1;
    }
  }
}

enum class Source { kRow, kCandidates };

/// Grid: x = row.
template <typename Shared, Source kSource>
__global__ void __launch_bounds__(Shared::kThreads, Shared::kThreads <= 512 ? 2 : 1)
    top_k_row(const TopKArgs args) {
  SLUICE_DYNAMIC_SHARED(uint32_t, shared_words);
  auto& shared = *reinterpret_cast<Shared*>(shared_words);
  const int64_t row = blockIdx.x;
  follow_last();
  [[maybe_unused]] int counts[kChunkRounds];
  if constexpr (kSource == Source::kCandidates) load_counts(args.candidates, row, counts);
  const int length = args.lengths[row];
  const int k = min(args.k, length);
  const float* scores = args.scores + row * args.score_stride;
  int32_t* selected = args.selected + row * args.k;
  for (int i = k + static_cast<int>(threadIdx.x); i < args.k; i += Shared::kThreads) {
    selected[i] = -1;
  }
  if (threadIdx.x == 0) {
    args.counts[row] = k;
    shared.n_listed = 0;
  }
  if (length <= args.k) {
    for (int i = static_cast<int>(threadIdx.x); i < k; i += Shared::kThreads) {
      selected[i] = i;
    }
    return;
  }
  if (length <= Shared::kCapacity) {
    list_all(shared, scores, length);
  } else if constexpr (kSource == Source::kCandidates) {
    list_candidates(shared, args.candidates, row, counts, length);
  } else {
    const float pivot = device::guess_pivot<kRowSamples>(shared, scores, length, k);
    __syncthreads();
    list_row(shared, scores, length, pivot);
  }
  __syncthreads();
  const auto listed = static_cast<int>(shared.n_listed);
  if (k <= listed && listed <= Shared::kCapacity) {
    const Listed<Shared> source{shared, listed};
    device::find_key_range(shared, listed);
    device::find_kth(shared, device::search_keys(shared.least_key, shared.most_key, k, listed), source);
    set_bits(shared, length, source);
  } else {
    const WholeRow<Shared> source{scores, length};
    device::find_kth(shared, {0, device::kValueBits, k, length}, source);
    set_bits(shared, length, source);
  }
  write_positions(shared, length, selected);
}

struct WarpSums {
  uint32_t warp_sums[kChunkThreads / 32];
};

/// Grid: x = chunk, y = row. Every block of a row guesses the same pivot.
__global__ void __launch_bounds__(kChunkThreads) collect_candidates(const TopKArgs args) {
  __shared__ float largest[device::kGuessGroups + 1];
  __shared__ WarpSums sums;
  const int64_t row = blockIdx.y;
  follow_last();
  const int length = args.lengths[row];
  const auto chunk = static_cast<int>(blockIdx.x);
  const int first = chunk * kChunk + 4 * static_cast<int>(threadIdx.x);
  if (length <= FewShared::kCapacity || chunk * kChunk >= length) {
    return;  // top_k_row takes all of a short row
  }
  const float* scores = args.scores + row * args.score_stride;
  float values[4] = {NAN, NAN, NAN, NAN};
  if (first + 4 <= length) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(scores + first));
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  } else {
    for (int i = 0; i < 4 && first + i < length; ++i) {
      values[i] = scores[first + i];
    }
  }
  const float pivot =
      device::guess_pivot_by_groups(largest, scores, length, kChunkThreads, args.k, FewShared::kCapacity);
  uint32_t hits = 0;
  for (const float value : values) {
    hits += value >= pivot ? 1 : 0;
  }
  const uint32_t place = device::sum_before(sums, hits);
  uint2* to = args.candidates.values + (row * args.candidates.chunks + chunk) * kChunk + place;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (values[i] >= pivot) {
      *to++ = make_uint2(device::order_key(values[i]), static_cast<uint32_t>(first + i));
    }
  }
  if (threadIdx.x == kChunkThreads - 1) {
    args.candidates.counts[row * args.candidates.chunks + chunk] = static_cast<int32_t>(place + hits);
  }
}

void check_params(const TopKParams& p) {
  const auto require = [](bool holds, const char* what, int64_t found) {
    if (!holds) {
      throw Error("top-k on the GPU", what, std::to_string(found));
    }
  };
  require(p.k >= 1 && p.k <= kMostTopK, "a k of 1 to 2048", p.k);
  require(p.most_scores >= 0 && p.most_scores <= kMostTopKScores, "at most 163840 scores in a row",
          p.most_scores);
  require(p.score_stride >= p.most_scores && p.score_stride % 4 == 0,
          "a stride of a multiple of 4, not less than the row", p.score_stride);
  require(p.n_rows >= 0 && p.n_rows < (int64_t{1} << 31), "fewer than 2^31 rows", p.n_rows);
  require(p.scratch != nullptr || top_k_scratch_bytes(p.n_rows, p.most_scores) == 0, "scratch", 0);
}

template <typename Shared, Source kSource>
void launch_rows(const TopKArgs& args, int64_t n_rows, cudaStream_t stream) {
  constexpr const char* kName = "top_k_row";
  auto* kernel = top_k_row<Shared, kSource>;
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Shared));
  allow_shared<kBytes>(kernel, kName);
  launch_overlapping(kernel, kName,
                     {.grid = dim3(static_cast<unsigned>(n_rows)),
                      .block = dim3(Shared::kThreads),
                      .shared_bytes = kBytes,
                      .stream = stream},
                     args);
}

}  // namespace

void launch_top_k(const TopKParams& p, cudaStream_t stream) {
  check_params(p);
  if (p.n_rows == 0) {
    return;
  }
  TopKArgs args{.scores = p.scores,
                .lengths = p.lengths,
                .selected = p.selected,
                .counts = p.counts,
                .score_stride = p.score_stride,
                .k = static_cast<int>(p.k),
                .candidates = {}};
  if (!top_k_rows_are_few(p.n_rows, p.most_scores)) {
    launch_rows<RowShared, Source::kRow>(args, p.n_rows, stream);
    return;
  }
  const int64_t chunks = ceil_div<int64_t>(p.most_scores, kChunk);
  auto* values = static_cast<uint2*>(p.scratch);
  args.candidates = {.values = values,
                     .counts = reinterpret_cast<int32_t*>(values + p.n_rows * chunks * kChunk),
                     .chunks = static_cast<int>(chunks)};
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(p.n_rows));
  launch_overlapping(collect_candidates, "collect_candidates",
                     {.grid = grid, .block = dim3(kChunkThreads), .stream = stream}, args);
  launch_rows<FewShared, Source::kCandidates>(args, p.n_rows, stream);
}

}  // namespace sluice::cuda
