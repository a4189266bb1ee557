// Top-k of rows. The scores that a guessed pivot lets through, some more than k, are listed in shared memory
// in one sweep of the row, and the search goes on in the list. If the guess was too high or too low, the
// search sweeps the row itself: slower, the same result. Selected positions become bits, and the bits are
// read in order. Few rows have their candidates listed by several blocks each (device/topk_candidates.cuh),
// and one that selects from them (device/topk_few.cuh), or goes the first way where there are too many or too
// few.
#include "kernels_cuda/topk.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/device/topk_few.cuh"
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
static_assert(sizeof(uint2) == kTopKCandidateBytes);

/// Candidates that collect_candidates found: those of a row's chunk from chunk * kChunk on.
struct Candidates {
  device::ChunkSummary* summaries;  // [n_rows, chunks]
  uint2* values;                    // [n_rows, chunks * kChunk] key, position
  int chunks;
  float target;  // how many of a row there should be
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

/// Writes the positions of the k largest of a row of more than k scores.
template <typename Shared>
__device__ __forceinline__ void select_row(Shared& shared, const float* scores, int length, int k,
                                           int32_t* selected) {
  if (length <= Shared::kCapacity) {
    list_all(shared, scores, length);
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

/// What is written of a row whatever its scores are: the count, the end of `selected`, and all of it where
/// the row has no more than k scores; whether that was all.
template <int kThreads>
__device__ __forceinline__ bool write_without_scores(const TopKArgs& args, int64_t row, int length,
                                                     int32_t* selected) {
  const int k = min(args.k, length);
#pragma unroll 1
  for (int i = k + static_cast<int>(threadIdx.x); i < args.k; i += kThreads) {
    selected[i] = -1;
  }
  if (threadIdx.x == 0) {
    args.counts[row] = k;
  }
  if (length > args.k) {
    return false;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < k; i += kThreads) {
    selected[i] = i;
  }
  return true;
}

/// Grid: x = row.
__global__ void __launch_bounds__(RowShared::kThreads, 2) top_k_row(const TopKArgs args) {
  SLUICE_DYNAMIC_SHARED(uint32_t, shared_words);
  auto& shared = *reinterpret_cast<RowShared*>(shared_words);
  const int64_t row = blockIdx.x;
  follow_last();
  const int length = args.lengths[row];
  int32_t* selected = args.selected + row * args.k;
  if (threadIdx.x == 0) {
    shared.n_listed = 0;
  }
  if (!write_without_scores<RowShared::kThreads>(args, row, length, selected)) {
    select_row(shared, args.scores + row * args.score_stride, length, args.k, selected);
  }
}

/// Grid: x = chunk, y = row. Short rows are left to top_k_few.
__global__ void __launch_bounds__(device::kChunkThreads) collect_candidates(const TopKArgs args) {
  __shared__ device::ChunkShared shared;
  const int64_t row = blockIdx.y;
  const auto chunk = static_cast<int>(blockIdx.x);
  const int first = chunk * kChunk + 4 * static_cast<int>(threadIdx.x);
  const float* scores = args.scores + row * args.score_stride;
  follow_last();
  const int length = args.lengths[row];
  float4 four = make_float4(NAN, NAN, NAN, NAN);
  if (first < args.score_stride) {  // of the buffer: the length need not be there yet
    four = *reinterpret_cast<const float4*>(scores + first);
  }
  if (length <= kFewTopKCapacity || chunk * kChunk >= length) {
    return;
  }
  const uint32_t pivot_key = device::guess_pivot_key(shared, scores, length, args.candidates.target);
  const float values[4] = {four.x, four.y, four.z, four.w};
  uint32_t keys[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    keys[i] = first + i < length ? device::order_key(values[i]) : 0;  // 0 is no candidate
  }
  const int64_t place = row * args.candidates.chunks + chunk;
  device::write_candidates(shared, keys, pivot_key, first, args.candidates.values + place * kChunk,
                           args.candidates.summaries + place);
}

union FewOrRowShared {
  device::FewShared few;
  RowShared row;
};

/// Grid: x = row.
__global__ void __launch_bounds__(device::kFewThreads) top_k_few(const TopKArgs args) {
  static_assert(device::kFewThreads == RowShared::kThreads);
  SLUICE_DYNAMIC_SHARED(uint4, shared_fours);
  auto& shared = *reinterpret_cast<FewOrRowShared*>(shared_fours);
  const int64_t row = blockIdx.x;
  const Candidates& candidates = args.candidates;
  let_next_begin();
  device::begin_few(shared.few);
  wait_for_last();
  const device::Summaries summaries =
      device::load_summaries(candidates.summaries + row * candidates.chunks, candidates.chunks);
  const int length = args.lengths[row];
  const float* scores = args.scores + row * args.score_stride;
  int32_t* selected = args.selected + row * args.k;
  if (write_without_scores<device::kFewThreads>(args, row, length, selected)) {
    return;
  }
  device::FewEntries entries;
  if (length <= kFewTopKCapacity) {
    device::load_row(entries, shared.few, scores, length);
  } else {
    if (threadIdx.x < 32) {
      device::cut_lines(shared.few, summaries, ceil_div(length, kChunk));
    }
    __syncthreads();
    if (shared.few.n_candidates < args.k || shared.few.n_lines > device::kFewLines) {
      __syncthreads();
      if (threadIdx.x == 0) {
        shared.row.n_listed = 0;
      }
      select_row(shared.row, scores, length, args.k, selected);
      return;
    }
    device::load_candidates(entries, shared.few, candidates.values + row * candidates.chunks * kChunk);
  }
  device::select_entries(shared.few, entries, args.k, selected);
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

/// A block for each row.
template <typename Shared>
void launch_rows(void (*kernel)(TopKArgs), const char* name, const TopKArgs& args, int64_t n_rows,
                 cudaStream_t stream) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Shared));
  allow_shared<kBytes>(kernel, name);
  launch_overlapping(kernel, name,
                     {.grid = dim3(static_cast<unsigned>(n_rows)),
                      .block = dim3(RowShared::kThreads),
                      .shared_bytes = kBytes,
                      .stream = stream},
                     args);
}

/// Lists candidates into `scratch`, for top_k_few.
void launch_collect(TopKArgs& args, const TopKParams& p, cudaStream_t stream) {
  // In ratio as far from k, below which there are too few, as from what fits.
  constexpr float kFits = 7000.0F;  // of kFewTopKCapacity: the last line of a chunk is not full
  const int64_t chunks = ceil_div<int64_t>(p.most_scores, kChunk);
  auto* summaries = static_cast<device::ChunkSummary*>(p.scratch);
  args.candidates = {.summaries = summaries,
                     .values = reinterpret_cast<uint2*>(summaries + p.n_rows * chunks),
                     .chunks = static_cast<int>(chunks),
                     .target = std::sqrt(static_cast<float>(p.k) * kFits)};
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(p.n_rows));
  launch_overlapping(collect_candidates, "collect_candidates",
                     {.grid = grid, .block = dim3(device::kChunkThreads), .stream = stream}, args);
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
  if (!top_k_rows_are_few(p.n_rows)) {
    launch_rows<RowShared>(top_k_row, "top_k_row", args, p.n_rows, stream);
    return;
  }
  if (top_k_collects(p.n_rows, p.most_scores)) {
    launch_collect(args, p, stream);
  }
  launch_rows<FewOrRowShared>(top_k_few, "top_k_few", args, p.n_rows, stream);
}

}  // namespace sluice::cuda
