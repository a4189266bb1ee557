// Flash attention of one head with keys of 128 + 64 dimensions and values of 128.
//
// A block has 128 queries, each of its eight warps 16 of them, and walks tiles of 64 rows that lie twice in
// shared memory: while one is multiplied the next one arrives. A warp keeps its queries in registers. Its
// scores are where the second product wants its weights, so nothing is exchanged but the maximum among four
// lanes. The maximum is raised as in mla_scores.cuh. Rows that no query of the block sees are zeros in shared
// memory and never read; scores of rows behind a query's count are replaced, whatever they are.
#pragma once

#include "kernels_cuda/device/block.cuh"
#include "kernels_cuda/device/mla_values.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/ptx.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/mla.h"
#include "kernels_cuda/mla_expanded_plan.h"

namespace sluice::cuda::device {

inline constexpr int kExpandedNope = 128;
inline constexpr int kExpandedRope = 64;
inline constexpr int kExpandedKey = kExpandedNope + kExpandedRope;
inline constexpr int kExpandedValue = 128;
inline constexpr int kExpandedWarps = 8;
inline constexpr int kExpandedThreads = 32 * kExpandedWarps;
inline constexpr int kExpandedWarpQueries = 16;
inline constexpr int kExpandedQueries = kExpandedWarpQueries * kExpandedWarps;
static_assert(kExpandedQueries == kMlaExpandedQueries);
inline constexpr int kExpandedTileRows = 64;
inline constexpr int kExpandedStages = 2;

/// Kernel arguments, sizes narrowed. Queries, out and log_sum_exp begin at the first head that is computed.
struct ExpandedArgs {
  const void* queries;    // [n_queries, query_heads, 192]
  const uint8_t* keys;    // bf16 [heads, n_rows, 128]
  const uint8_t* values;  // bf16 [heads, n_rows, 128]
  const uint8_t* rope;    // rope part of row 0
  const int32_t* counts;
  void* out;           // [n_queries, query_heads, 128]
  float* log_sum_exp;  // [n_queries, query_heads], or nullptr
  int64_t rope_row_bytes;
  int n_rows;
  int n_queries;
  int query_heads;
  float scale_log2;  // softmax_scale * log2(e), positive
  FloatType query_type;
  FloatType out_type;
};

/// Rows are 16 bytes longer than their values, so that eight of them hit eight groups of banks.
struct ExpandedShared {
  alignas(16) uint8_t keys[kExpandedStages][kExpandedTileRows][2 * kExpandedKey + 16];
  alignas(16) uint8_t values[kExpandedStages][kExpandedTileRows][2 * kExpandedValue + 16];
};
using ExpandedKeyTile = uint8_t[kExpandedTileRows][2 * kExpandedKey + 16];
using ExpandedValueTile = uint8_t[kExpandedTileRows][2 * kExpandedValue + 16];

/// Rows that a query sees; none for one that is not there.
__device__ __forceinline__ int count_of(const ExpandedArgs& args, int query) {
  return query < args.n_queries ? max(0, min(args.counts[query], args.n_rows)) : 0;
}

/// The same for `n` queries from `first` on, the largest of them; whole warps.
__device__ __forceinline__ int most_rows_of(const ExpandedArgs& args, int first, int n) {
  int most = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < n; i += 32) {
    most = max(most, count_of(args, first + i));
  }
  return combine_warp(most, [](int a, int b) { return max(a, b); });
}

/// Where the rows of one head come from; `end` is the first row that is not there.
struct ExpandedSource {
  const uint8_t* keys;
  const uint8_t* values;
  const uint8_t* rope;
  int64_t rope_row_bytes;
  int end;
};

/// Starts this thread's copies of kBytes of each of a tile's rows from `first_row` on; zeros from `end` on.
template <int kBytes>
__device__ __forceinline__ void copy_tile(uint32_t to, int to_row_bytes, const uint8_t* from,
                                          int64_t from_row_bytes, int first_row, int end) {
  constexpr int kChunks = kBytes / 16;
  constexpr int kRowsAtOnce = kExpandedThreads / kChunks;
  static_assert(kExpandedThreads % kChunks == 0 && kExpandedTileRows % kRowsAtOnce == 0);
  const int at = 16 * (static_cast<int>(threadIdx.x) % kChunks);
  const int first = static_cast<int>(threadIdx.x) / kChunks;
#pragma unroll
  for (int i = 0; i < kExpandedTileRows / kRowsAtOnce; ++i) {
    const int r = first + kRowsAtOnce * i;
    const bool is_there = first_row + r < end;
    const uint8_t* row = from + (is_there ? first_row + r : 0) * from_row_bytes;
    ptx::copy_16_async(to + static_cast<uint32_t>(r * to_row_bytes + at), row + at,
                       is_there ? ptx::Fill::kCopy : ptx::Fill::kZero);
  }
}

/// Starts the copies of a tile into its stage and ends a group of them.
__device__ __forceinline__ void load_tile(ExpandedShared& shared, const ExpandedSource& from, int tile) {
  const int first_row = kExpandedTileRows * tile;
  constexpr int kKeyBytes = sizeof shared.keys[0][0];
  constexpr int kValueBytes = sizeof shared.values[0][0];
  const uint32_t keys = ptx::shared_address(shared.keys[tile % kExpandedStages]);
  const uint32_t values = ptx::shared_address(shared.values[tile % kExpandedStages]);
  copy_tile<2 * kExpandedNope>(keys, kKeyBytes, from.keys, 2 * kExpandedNope, first_row, from.end);
  copy_tile<2 * kExpandedRope>(keys + 2 * kExpandedNope, kKeyBytes, from.rope, from.rope_row_bytes, first_row,
                               from.end);
  copy_tile<2 * kExpandedValue>(values, kValueBytes, from.values, 2 * kExpandedValue, first_row, from.end);
  ptx::end_copy_group();
}

/// 16 queries as the A operand of twelve products.
struct ExpandedQueryFragments {
  uint32_t a[kExpandedKey / 16][4];
};

/// `queries` begins at the warp's first one, `stride` values apart; those from `n_there` on are zeros. Lanes
/// load chunks of eight and the four lanes of a query exchange words, as load_queries of mla_scores.cuh does.
template <typename T>
__device__ __forceinline__ void load_expanded_queries(ExpandedQueryFragments& q, const T* queries,
                                                      int64_t stride, int n_there, int g, int t) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = 8 * half + g;
#pragma unroll
    for (int i = 0; i < kExpandedKey / 32; ++i) {
      const uint4 chunk =
          query < n_there ? load_eight(queries + query * stride + 8 * (4 * i + t)) : make_uint4(0, 0, 0, 0);
      const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
      const uint4 exchanged = transpose_words(words, t);
      q.a[2 * i][half] = exchanged.x;
      q.a[2 * i][half + 2] = exchanged.y;
      q.a[2 * i + 1][half] = exchanged.z;
      q.a[2 * i + 1][half + 2] = exchanged.w;
    }
  }
}

/// Scores of 16 queries and a tile's rows: c[n] holds rows 8 n to 8 n + 7.
struct ExpandedScores {
  float c[kExpandedTileRows / 8][4];
};

__device__ __forceinline__ ExpandedScores multiply_keys(const ExpandedKeyTile& keys,
                                                        const ExpandedQueryFragments& q, int lane) {
  ExpandedScores s{};
  constexpr int kGroups = kExpandedTileRows / 16;
  constexpr int kLoads = kExpandedKey / 16 * kGroups;
  const uint32_t from = ptx::shared_address(keys[lane % 8 + lane / 16 * 8]) + 16 * (lane / 8 % 2);
  uint32_t b[2][4];  // a step ahead
  ptx::load_matrices(b[0], from);
#pragma unroll
  for (int n = 0; n < kLoads; ++n) {
    if (n + 1 < kLoads) {
      constexpr int kGroupBytes = 16 * sizeof keys[0];
      ptx::load_matrices(b[(n + 1) % 2], from + 32 * ((n + 1) / kGroups) + kGroupBytes * ((n + 1) % kGroups));
    }
    const auto& now = b[n % 2];
    const auto& a = q.a[n / kGroups];
    ptx::mma_bf16(s.c[2 * (n % kGroups)], a, now[0], now[1]);
    ptx::mma_bf16(s.c[2 * (n % kGroups) + 1], a, now[2], now[3]);
  }
  return s;
}

/// Sums of weighted values of 16 queries: c[n] holds columns 8 n to 8 n + 7.
struct ExpandedOutput {
  float c[kExpandedValue / 8][4];
};

/// What a warp knows of its queries: index 0 is query g of each lane, index 1 query g + 8.
struct ExpandedQueries {
  int counts[2];
  RunningSoftmax running[2];
};

/// -infinity for rows behind the query's count, whatever their scores were.
__device__ __forceinline__ void mask_scores(ExpandedScores& s, const ExpandedQueries& queries, int first_row,
                                            int t) {
#pragma unroll
  for (int n = 0; n < kExpandedTileRows / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + 8 * n + 2 * t + i % 2;
      s.c[n][i] = row < queries.counts[i / 2] ? s.c[n][i] : -INFINITY;
    }
  }
}

/// Scores to weights, in place; raises the maxima and rescales what has been summed. scale_log2 > 0.
__device__ __forceinline__ void weigh_scores(ExpandedScores& s, float scale_log2, ExpandedQueries& queries,
                                             ExpandedOutput& out) {
  float rescale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    RunningSoftmax& running = queries.running[half];
    float largest = -INFINITY;
#pragma unroll
    for (const auto& c : s.c) {
      largest = fmaxf(largest, fmaxf(c[2 * half], c[2 * half + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2)) * scale_log2;
    const float raised = largest > running.max + kSlack ? largest : running.max;
    rescale[half] = ptx::fast_exp2(running.max - raised);  // 1 where it is not raised
    running.max = raised;
    running.sum *= rescale[half];
#pragma unroll
    for (auto& c : s.c) {
      c[2 * half] = ptx::fast_exp2(fmaf(c[2 * half], scale_log2, -raised));
      c[2 * half + 1] = ptx::fast_exp2(fmaf(c[2 * half + 1], scale_log2, -raised));
      running.sum += c[2 * half] + c[2 * half + 1];
    }
  }
  if (__all_sync(0xFFFFFFFFU, rescale[0] == 1.0F && rescale[1] == 1.0F)) {
    return;
  }
#pragma unroll
  for (auto& c : out.c) {
    c[0] *= rescale[0];
    c[1] *= rescale[0];
    c[2] *= rescale[1];
    c[3] *= rescale[1];
  }
}

/// out += weights x values. The weights' accumulators hold what the A operand wants, two columns a register.
__device__ __forceinline__ void multiply_values(const ExpandedValueTile& values,
                                                const ExpandedScores& weights, ExpandedOutput& out,
                                                int lane) {
  constexpr int kGroups = kExpandedValue / 16;
  constexpr int kLoads = kExpandedTileRows / 16 * kGroups;
  const uint32_t from = ptx::shared_address(values[lane % 16]) + 16 * (lane / 16);
  uint32_t a[4] = {};
  uint32_t b[2][4];  // a step ahead
  ptx::load_matrices_transposed(b[0], from);
#pragma unroll
  for (int n = 0; n < kLoads; ++n) {
    const int step = n / kGroups;
    const int column = n % kGroups;
    if (n + 1 < kLoads) {
      constexpr int kStepBytes = 16 * sizeof values[0];
      ptx::load_matrices_transposed(b[(n + 1) % 2],
                                    from + kStepBytes * ((n + 1) / kGroups) + 32 * ((n + 1) % kGroups));
    }
    if (column == 0) {
      const auto& low = weights.c[2 * step];
      const auto& high = weights.c[2 * step + 1];
      a[0] = two_bf16(low[0], low[1]);
      a[1] = two_bf16(low[2], low[3]);
      a[2] = two_bf16(high[0], high[1]);
      a[3] = two_bf16(high[2], high[3]);
    }
    const auto& now = b[n % 2];
    ptx::mma_bf16(out.c[2 * column], a, now[0], now[1]);
    ptx::mma_bf16(out.c[2 * column + 1], a, now[2], now[3]);
  }
}

/// The block's tiles, up to the last row that one of its queries sees. A warp leaves out tiles that none of
/// its own queries sees, but not the barriers.
__device__ __forceinline__ void attend_expanded(ExpandedShared& shared, const ExpandedSource& from,
                                                const ExpandedQueryFragments& q, float scale_log2,
                                                ExpandedQueries& queries, ExpandedOutput& out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n_tiles = (from.end + kExpandedTileRows - 1) / kExpandedTileRows;
  const int most =
      combine_warp(max(queries.counts[0], queries.counts[1]), [](int a, int b) { return max(a, b); });
  const int least =
      combine_warp(min(queries.counts[0], queries.counts[1]), [](int a, int b) { return min(a, b); });
  if (n_tiles > 0) {
    load_tile(shared, from, 0);
  }
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::wait_for_copies<0>();
    __syncthreads();  // the tile is there; the tile before is done with
    if (tile + 1 < n_tiles) {
      load_tile(shared, from, tile + 1);
    }
    const int first_row = kExpandedTileRows * tile;
    if (first_row < most) {
      ExpandedScores s = multiply_keys(shared.keys[tile % kExpandedStages], q, lane);
      if (first_row + kExpandedTileRows > least) {
        mask_scores(s, queries, first_row, lane % 4);
      }
      weigh_scores(s, scale_log2, queries, out);
      multiply_values(shared.values[tile % kExpandedStages], s, out, lane);
    }
  }
}

/// Divides by the sums and writes; `to` and `log_sum_exp` begin at the warp's first query of the head,
/// `heads` results between queries. Queries from `n_there` on are not written.
template <typename T>
__device__ __forceinline__ void write_expanded(const ExpandedOutput& out, const ExpandedQueries& queries,
                                               T* to, float* log_sum_exp, int64_t heads, int n_there,
                                               int lane) {
  constexpr int kPairs = kExpandedValue / 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = 8 * half + lane / 4;
    float sum = queries.running[half].sum;
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
    const float by = sum > 0.0F ? 1.0F / sum : 0.0F;
    float low[kPairs];
    float high[kPairs];
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
      low[n] = out.c[n][2 * half] * by;
      high[n] = out.c[n][2 * half + 1] * by;
    }
    store_columns(to + query * heads * kExpandedValue, low, high, query < n_there, lane % 4);
    if (log_sum_exp != nullptr && query < n_there && lane % 4 == 0) {
      log_sum_exp[query * heads] =
          sum > 0.0F ? (queries.running[half].max + log2f(sum)) * 0.69314718F : -INFINITY;
    }
  }
}

/// Grid: x = blocks of queries, the last ones first (they see most), y = heads.
__global__ void __launch_bounds__(kExpandedThreads, 1) mla_expanded(const ExpandedArgs args) {
  SLUICE_DYNAMIC_SHARED(uint8_t, expanded_shared);
  auto& shared = *reinterpret_cast<ExpandedShared*>(expanded_shared);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t head = blockIdx.y;
  const int block_first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kExpandedQueries;
  const int first = block_first + kExpandedWarpQueries * warp;
  const int n_there = args.n_queries - first;  // of the warp, or more; less than 1 for none
  follow_last();
  const int64_t head_rows = head * args.n_rows;
  const ExpandedSource from{.keys = args.keys + head_rows * 2 * kExpandedNope,
                            .values = args.values + head_rows * 2 * kExpandedValue,
                            .rope = args.rope,
                            .rope_row_bytes = args.rope_row_bytes,
                            .end = most_rows_of(args, block_first, kExpandedQueries)};
  const int64_t place = int64_t{first} * args.query_heads + head;
  const int64_t stride = int64_t{args.query_heads} * kExpandedKey;
  ExpandedQueryFragments q;
  if (args.query_type == FloatType::kF32) {
    load_expanded_queries(q, static_cast<const float*>(args.queries) + place * kExpandedKey, stride, n_there,
                          lane / 4, lane % 4);
  } else {
    load_expanded_queries(q, static_cast<const __nv_bfloat16*>(args.queries) + place * kExpandedKey, stride,
                          n_there, lane / 4, lane % 4);
  }
  ExpandedQueries queries{{count_of(args, first + lane / 4), count_of(args, first + lane / 4 + 8)}, {}};
  ExpandedOutput out{};
  attend_expanded(shared, from, q, args.scale_log2, queries, out);

  float* log_sum_exp = args.log_sum_exp == nullptr ? nullptr : args.log_sum_exp + place;
  if (args.out_type == FloatType::kF32) {
    write_expanded(out, queries, static_cast<float*>(args.out) + place * kExpandedValue, log_sum_exp,
                   args.query_heads, n_there, lane);
  } else {
    write_expanded(out, queries, static_cast<__nv_bfloat16*>(args.out) + place * kExpandedValue, log_sum_exp,
                   args.query_heads, n_there, lane);
  }
}

}  // namespace sluice::cuda::device
