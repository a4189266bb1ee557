// The fast attention kernel: flash attention over tiles of latent rows, both products by mma.sync in bf16.
// The running maximum is raised only when a score exceeds it by kSlack, so that the accumulators are seldom
// rescaled; the result is the same but for rounding.
#pragma once

#include "kernels_cuda/device/mla_tiles.cuh"
#include "kernels_cuda/mla.h"

namespace sluice::cuda::device {

inline constexpr float kNoMaximum = -1e30F;  // not -infinity: exp2(-inf - -inf) would be NaN
inline constexpr float kSlack = 8.0F;        // weights stay below 2^8: bf16 is as exact there as below 1

/// Kernel arguments, sizes narrowed.
struct MlaArgs {
  const void* queries;
  const uint8_t* rows;
  const int32_t* selected;
  const int32_t* counts;
  void*
      out;  // one split: [n_queries, n_heads, 512] of out_type; more: bf16 [n_queries, splits, n_heads, 512]
  float* log_sum_exp;  // one split: natural; more: [n_queries, splits, n_heads] to the base 2
  int64_t row_bytes;
  int64_t selected_stride;
  uint32_t n_rows;
  int n_heads;
  int splits;
  float scale_log2;  // softmax_scale * log2(e)
  FloatType query_type;
  FloatType out_type;
};

/// Where this thread stands.
template <typename Shape>
struct MlaPlace {
  int lane;
  int warp;
  int team;
  int head_team;
  int row_team;
  int first_head;  // of the team, in the block
  int g;
  int t;

  __device__ __forceinline__ explicit MlaPlace(int thread)
      : lane(thread % 32),
        warp(thread / 32 % kTeamWarps),
        team(thread / (32 * kTeamWarps)),
        head_team(Shape::kHeadTeams == 1 ? 0 : team),
        row_team(Shape::kRowTeams == 1 ? 0 : team),
        first_head(kTeamHeads * head_team),
        g(lane / 4),
        t(lane % 4) {}
};

/// A quarter of the dimensions of 32 heads, as the A operand of nine products.
struct QueryFragments {
  uint32_t a[2][kDimsPerWarp / 16][4];
};

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ __forceinline__ uint32_t load_two(const float* values) {
  const float2 pair = __ldg(reinterpret_cast<const float2*>(values));
  return two_bf16(pair.x, pair.y);
}
__device__ __forceinline__ uint32_t load_two(const __nv_bfloat16* values) {
  return __ldg(reinterpret_cast<const uint32_t*>(values));
}

/// `queries` begins at the team's first head; heads from `n_heads` on are zeros.
template <typename Shape, typename T>
__device__ __forceinline__ void load_queries(QueryFragments& q, const T* queries, int n_heads,
                                             const MlaPlace<Shape>& at) {
  const T* lane = queries + at.g * kRowDims + kDimsPerWarp * at.warp + 2 * at.t;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is_there = 16 * m + 8 * half + at.g < n_heads;
#pragma unroll
      for (int step = 0; step < kDimsPerWarp / 16; ++step) {
        const T* from = lane + (16 * m + 8 * half) * kRowDims + 16 * step;
        q.a[m][step][half] = is_there ? load_two(from) : 0U;
        q.a[m][step][half + 2] = is_there ? load_two(from + 8) : 0U;
      }
    }
  }
}

/// The place of four scores of a head: chunks are swapped in every other pair of heads, against bank
/// conflicts.
__device__ __forceinline__ int score_chunk(int head, int chunk) {
  return chunk ^ (((head >> 1) & 1) * 2);
}

/// This warp's part of the scores of 32 heads and its team's 16 rows.
struct PartialScores {
  float c[2][2][4];
};

template <typename Shape>
__device__ __forceinline__ PartialScores multiply_queries(MlaShared<Shape>& shared, const QueryFragments& q,
                                                          int tile, const MlaPlace<Shape>& at) {
  PartialScores s{};
  const int row = kTeamRows * at.row_team + at.lane % 8 + at.lane / 16 * 8;
  const uint32_t from = shared_address(shared.tiles[tile % Shape::kStages][row]) +
                        2 * kDimsPerWarp * at.warp + 16 * (at.lane / 8 % 2);
  constexpr int kSteps = kDimsPerWarp / 16;
  uint32_t b[2][4];  // a step ahead
  load_matrices(b[0], from);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) {
      load_matrices(b[(step + 1) % 2], from + 32 * (step + 1));
    }
    const auto& now = b[step % 2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      mma_bf16(s.c[m][0], q.a[m][step], now[0], now[1]);
      mma_bf16(s.c[m][1], q.a[m][step], now[2], now[3]);
    }
  }
  return s;
}

template <typename Shape>
__device__ __forceinline__ void write_scores(MlaShared<Shape>& shared, const PartialScores& s,
                                             const MlaPlace<Shape>& at) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = 16 * m + 8 * half + at.g;
        float* to =
            shared.scores[at.team][at.warp][head] + 4 * score_chunk(head, 2 * n + at.t / 2) + at.t % 2 * 2;
        *reinterpret_cast<float2*>(to) = make_float2(s.c[m][n][2 * half], s.c[m][n][2 * half + 1]);
      }
    }
  }
}

/// 2^x to 2^-22; 0 for what would be subnormal.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// One head's running softmax; the threads of the head agree on the maximum, each sums its own weights.
struct RunningSoftmax {
  float max = kNoMaximum;
  float sum = 0.0F;
};

/// Scores of a tile to weights in bf16; four rows of one head for each thread.
template <typename Shape>
__device__ __forceinline__ void softmax_tile(MlaShared<Shape>& shared, RunningSoftmax& running, int tile,
                                             float scale_log2) {
  constexpr int kPerHead = Shape::kThreadsPerHead;
  const int thread = thread_again();
  const int head = thread / kPerHead;
  const int part = thread % kPerHead;
  const int team = head / kTeamHeads * Shape::kRowTeams + part / 4;
  const int chunk = 4 * score_chunk(head, part % 4);
  float s[4] = {};
#pragma unroll
  for (int warp = 0; warp < kTeamWarps; ++warp) {
    const auto add = *reinterpret_cast<const float4*>(shared.scores[team][warp][head % kTeamHeads] + chunk);
    s[0] += add.x;
    s[1] += add.y;
    s[2] += add.z;
    s[3] += add.w;
  }
  const auto mask = *reinterpret_cast<const float4*>(shared.mask[tile % (2 * Shape::kStages)] + 4 * part);
  s[0] = fmaf(s[0], scale_log2, mask.x);
  s[1] = fmaf(s[1], scale_log2, mask.y);
  s[2] = fmaf(s[2], scale_log2, mask.z);
  s[3] = fmaf(s[3], scale_log2, mask.w);
  float largest = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
#pragma unroll
  for (int distance = 1; distance < kPerHead; distance *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
  }
  const float raised = largest > running.max + kSlack ? largest : running.max;
  const float rescale = fast_exp2(running.max - raised);  // 1 where it is not raised
  running.max = raised;
  running.sum *= rescale;
#pragma unroll
  for (float& value : s) {
    value = fast_exp2(value - raised);
    running.sum += value;
  }
  *reinterpret_cast<uint2*>(shared.weights[tile % 2][head] + 8 * part) =
      make_uint2(two_bf16(s[0], s[1]), two_bf16(s[2], s[3]));
  if (part == 0) {
    shared.rescale[tile % 2][head] = rescale;
  }
}

/// Accumulators of a warp: 32 heads and kColumnsPerWarp columns of the output.
template <typename Shape>
struct MlaOutput {
  float c[2][Shape::kColumnsPerWarp / 8][4];
};

/// The first of the columns that this warp sums.
template <typename Shape>
__device__ __forceinline__ int first_column(const MlaPlace<Shape>& at) {
  return Shape::kColumnsPerWarp * (Shape::kRowTeams == 1 ? at.warp : kTeamWarps * at.team + at.warp);
}

template <typename Shape>
__device__ __forceinline__ void rescale_output(const MlaShared<Shape>& shared, MlaOutput<Shape>& out,
                                               int tile, const MlaPlace<Shape>& at) {
  float by[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    by[i / 2][i % 2] = shared.rescale[tile % 2][at.first_head + 8 * i + at.g];
  }
  const bool all_one = by[0][0] == 1.0F && by[0][1] == 1.0F && by[1][0] == 1.0F && by[1][1] == 1.0F;
  if (__all_sync(0xFFFFFFFFU, all_one)) {
    return;
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (auto& c : out.c[m]) {
      c[0] *= by[m][0];
      c[1] *= by[m][0];
      c[2] *= by[m][1];
      c[3] *= by[m][1];
    }
  }
}

/// out += weights x rows[:, columns of this warp].
template <typename Shape>
__device__ __forceinline__ void add_values(MlaShared<Shape>& shared, MlaOutput<Shape>& out, int tile,
                                           const MlaPlace<Shape>& at) {
  rescale_output(shared, out, tile, at);
#pragma unroll
  for (int step = 0; step < Shape::kRowTeams; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int head = at.first_head + 16 * m + at.lane % 16;
      load_matrices(a[m], shared_address(shared.weights[tile % 2][head]) + 32 * step + 16 * (at.lane / 16));
    }
    const int row = kTeamRows * step + at.lane % 16;
    const uint32_t from =
        shared_address(shared.tiles[tile % Shape::kStages][row]) + 2 * first_column(at) + 16 * (at.lane / 16);
    constexpr int kColumnSteps = Shape::kColumnsPerWarp / 16;
    uint32_t b[2][4];  // a step ahead
    load_matrices_transposed(b[0], from);
#pragma unroll
    for (int n = 0; n < kColumnSteps; ++n) {
      if (n + 1 < kColumnSteps) {
        load_matrices_transposed(b[(n + 1) % 2], from + 32 * (n + 1));
      }
      const auto& now = b[n % 2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_bf16(out.c[m][2 * n], a[m], now[0], now[1]);
        mma_bf16(out.c[m][2 * n + 1], a[m], now[2], now[3]);
      }
    }
  }
}

/// Words (column, lane) of four lanes become (lane, column): lane t gets word t of each, in the order of the
/// lanes.
__device__ __forceinline__ uint4 transpose_words(const uint32_t (&w)[4], int t) {
  const bool is_upper = (t & 2) != 0;
  const bool is_odd = (t & 1) != 0;
  const uint32_t r0 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[0] : w[2], 2);
  const uint32_t r1 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[1] : w[3], 2);
  const uint32_t a0 = is_upper ? r0 : w[0];
  const uint32_t a1 = is_upper ? r1 : w[1];
  const uint32_t b0 = is_upper ? w[2] : r0;
  const uint32_t b1 = is_upper ? w[3] : r1;
  const uint32_t a = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? a0 : a1, 1);
  const uint32_t b = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? b0 : b1, 1);
  return is_odd ? make_uint4(a, a1, b, b1) : make_uint4(a0, a, b0, b);
}

/// A head's columns of this warp, kPairs times two in each lane: columns 8 i + 2 t, + 1. `to` is the warp's
/// first column.
template <size_t kPairs>
__device__ __forceinline__ void store_columns(float* to, const float (&low)[kPairs],
                                              const float (&high)[kPairs], bool is_there, int t) {
  if (is_there) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(kPairs); ++i) {
      *reinterpret_cast<float2*>(to + 8 * i + 2 * t) = make_float2(low[i], high[i]);
    }
  }
}
/// 16 bytes at a time: the stores of a decoded token's partial results take a tenth of its time as it is.
template <size_t kPairs>
__device__ __forceinline__ void store_columns(__nv_bfloat16* to, const float (&low)[kPairs],
                                              const float (&high)[kPairs], bool is_there, int t) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(kPairs); i += 4) {
    const uint32_t words[4] = {two_bf16(low[i], high[i]), two_bf16(low[i + 1], high[i + 1]),
                               two_bf16(low[i + 2], high[i + 2]), two_bf16(low[i + 3], high[i + 3])};
    const uint4 columns = transpose_words(words, t);
    if (is_there) {
      *reinterpret_cast<uint4*>(to + 8 * (i + t)) = columns;
    }
  }
}

/// Divides by the sums and writes; `to` begins at the block's first head, of which there are `heads`.
template <typename Shape, typename T>
__device__ __forceinline__ void write_output(const MlaShared<Shape>& shared, const MlaOutput<Shape>& out,
                                             T* to, int heads, const MlaPlace<Shape>& at) {
  constexpr int kPairs = Shape::kColumnsPerWarp / 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int head = at.first_head + 8 * i + at.g;
    const float sum = shared.sum[head];
    const float by = sum > 0.0F ? 1.0F / sum : 0.0F;
    float low[kPairs];
    float high[kPairs];
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
      low[n] = out.c[i / 2][n][i % 2 * 2] * by;
      high[n] = out.c[i / 2][n][i % 2 * 2 + 1] * by;
    }
    store_columns(to + head * kLatent + first_column(at), low, high, head < heads, at.t);
  }
}

/// What a block has: grid x = query * head blocks + head block, y = split.
struct MlaBlock {
  int64_t query;
  int first_head;
  int split;

  /// Position of the block's first head in the output.
  [[nodiscard]] __device__ __forceinline__ int64_t first_row(const MlaArgs& args) const {
    return (query * args.splits + split) * args.n_heads + first_head;
  }
};

/// Volatile, so that the compiler asks again after the loop instead of keeping the answer in registers.
template <typename Shape>
__device__ __forceinline__ MlaBlock this_block(const MlaArgs& args) {
  uint32_t x;
  uint32_t y;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
  const auto head_blocks = static_cast<uint32_t>((args.n_heads + Shape::kHeads - 1) / Shape::kHeads);
  return {x / head_blocks, static_cast<int>(x % head_blocks) * Shape::kHeads, static_cast<int>(y)};
}

/// The entries of the block's split: whole tiles. A list is cut by its length, not by the count, which is
/// then not waited for.
template <typename Shape>
__device__ __forceinline__ RowRange range_of(const MlaArgs& args, const MlaBlock& block) {
  const int count = args.counts[block.query];
  const bool is_sparse = args.selected != nullptr;
  const int total = is_sparse ? static_cast<int>(args.selected_stride) : count;
  const int tiles = (total + Shape::kTileRows - 1) / Shape::kTileRows;
  const int per_split = (tiles + args.splits - 1) / args.splits * Shape::kTileRows;
  const int begin = min(total, block.split * per_split);
  const int32_t* selected = is_sparse ? args.selected + block.query * args.selected_stride : nullptr;
  return {args.rows, selected, args.row_bytes, args.n_rows, begin, min(total, begin + per_split), count};
}

/// The sums of weights to shared memory, log-sum-exp to `log_sum_exp` where there is one.
template <typename Shape>
__device__ __forceinline__ void finish_softmax(MlaShared<Shape>& shared, RunningSoftmax running, int heads,
                                               float* log_sum_exp, float to_base) {
#pragma unroll
  for (int distance = 1; distance < Shape::kThreadsPerHead; distance *= 2) {
    running.sum += __shfl_xor_sync(0xFFFFFFFFU, running.sum, distance);
  }
  const int head = static_cast<int>(threadIdx.x) / Shape::kThreadsPerHead;
  if (static_cast<int>(threadIdx.x) % Shape::kThreadsPerHead == 0) {
    shared.sum[head] = running.sum;
    if (log_sum_exp != nullptr && head < heads) {
      log_sum_exp[head] = running.sum > 0.0F ? (running.max + log2f(running.sum)) * to_base : -INFINITY;
    }
  }
}

/// Tiles [0, n_tiles) of a loader that has started kLoadedFirst of them. Scores run a tile ahead of values,
/// so that both products are between the same two barriers, and one team's products run beside the other's
/// softmax.
template <typename Shape>
__device__ __forceinline__ void attend_tiles(MlaShared<Shape>& shared, RowLoader<Shape>& loader, int n_tiles,
                                             const QueryFragments& q, float scale_log2,
                                             RunningSoftmax& running, MlaOutput<Shape>& out,
                                             const MlaPlace<Shape>& at) {
  constexpr bool kConverts = Shape::kIsFp8 && Shape::kIsRing;
  wait_for_copies<Shape::kLoadedFirst - 2>();
  if constexpr (Shape::kIsFp8) {
    loader.convert(0);
    loader.convert(1);
  }
  __syncthreads();
  write_scores(shared, multiply_queries(shared, q, 0, at), at);
  __syncthreads();
  softmax_tile(shared, running, 0, scale_log2);
  const int last = n_tiles - 1;
  for (int tile = 0; tile < last; ++tile) {
    if constexpr (kConverts) {
      wait_for_copies<0>();
      loader.convert(tile + 2);
    }
    const PartialScores s = multiply_queries(shared, q, tile + 1, at);
    __syncthreads();  // the scores of `tile` are read, its weights written; the tile before is done with
    write_scores(shared, s, MlaPlace<Shape>(thread_again()));
    if constexpr (Shape::kIsRing) {
      loader.load(tile + 3);
      wait_for_copies<1>();
    }
    __syncthreads();  // the next scores are there, and the tile behind them
    if (!Shape::kIsRing || at.team == 1) {
      softmax_tile(shared, running, tile + 1, scale_log2);
    }
    add_values(shared, out, tile, MlaPlace<Shape>(thread_again()));
    if (Shape::kIsRing && at.team == 0) {
      softmax_tile(shared, running, tile + 1, scale_log2);
    }
  }
  __syncthreads();
  if (last >= 0) {
    add_values(shared, out, last, at);
  }
}

/// All rows of the block's range: in one go, or in passes of what fits into the stages.
template <typename Shape>
__device__ __forceinline__ void attend_range(MlaShared<Shape>& shared, const MlaArgs& args,
                                             const MlaBlock& block, RunningSoftmax& running,
                                             MlaOutput<Shape>& out, const MlaPlace<Shape>& at) {
  const RowRange range = range_of<Shape>(args, block);
  constexpr int kPassRows = Shape::kStages * Shape::kTileRows;
  RowRange pass = range;
  if constexpr (!Shape::kIsRing) {
    pass.end = min(range.end, pass.begin + kPassRows);
  }
  RowLoader<Shape> loader(shared, pass);
  loader.load_first();
  const int count = range.count;
  const int n_tiles = pass.n_tiles(Shape::kTileRows);
  if constexpr (Shape::kIsRing) {
    pass.limit_to_count();
  }
  QueryFragments q;
  const int64_t head = block.query * args.n_heads + block.first_head + at.first_head;
  const int n_heads = args.n_heads - block.first_head - at.first_head;
  if (args.query_type == FloatType::kF32) {  // while the rows are on their way
    load_queries(q, static_cast<const float*>(args.queries) + head * kRowDims, n_heads, at);
  } else {
    load_queries(q, static_cast<const __nv_bfloat16*>(args.queries) + head * kRowDims, n_heads, at);
  }
  attend_tiles(shared, loader, n_tiles, q, args.scale_log2, running, out, at);
  if constexpr (!Shape::kIsRing) {
    while (pass.end < min(range.end, count)) {
      pass.begin = pass.end;
      pass.end = min(range.end, pass.begin + kPassRows);
      __syncthreads();
      loader.load_first();
      attend_tiles(shared, loader, pass.n_tiles(Shape::kTileRows), q, args.scale_log2, running, out, at);
    }
  }
  wait_for_copies<0>();
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) mla_attend(const MlaArgs args) {
  extern __shared__ uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<MlaShared<Shape>*>(shared_bytes);
  const MlaPlace<Shape> at(static_cast<int>(threadIdx.x));
  RunningSoftmax running;
  MlaOutput<Shape> out{};
  attend_range(shared, args, this_block<Shape>(args), running, out, at);

  const MlaBlock block = this_block<Shape>(args);
  const int64_t first_row = block.first_row(args);
  const int heads = min(Shape::kHeads, args.n_heads - block.first_head);
  const bool is_whole = args.splits == 1;
  float* log_sum_exp = args.log_sum_exp == nullptr ? nullptr : args.log_sum_exp + first_row;
  finish_softmax(shared, running, heads, log_sum_exp, is_whole ? 0.69314718F : 1.0F);
  __syncthreads();
  if (is_whole && args.out_type == FloatType::kF32) {
    write_output(shared, out, static_cast<float*>(args.out) + first_row * kLatent, heads, at);
  } else {
    write_output(shared, out, static_cast<__nv_bfloat16*>(args.out) + first_row * kLatent, heads, at);
  }
}

}  // namespace sluice::cuda::device
