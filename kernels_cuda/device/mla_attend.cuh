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
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp = static_cast<int>(threadIdx.x) / 32 % kTeamWarps;
  int team = static_cast<int>(threadIdx.x) / (32 * kTeamWarps);
  int head_team = Shape::kHeadTeams == 1 ? 0 : team;
  int row_team = Shape::kRowTeams == 1 ? 0 : team;
  int first_head = kTeamHeads * head_team;  // of the team, in the block
  int g = lane / 4;
  int t = lane % 4;

  /// A barrier of the threads that share heads.
  __device__ __forceinline__ void sync_heads() const {
    sync_threads(1 + head_team, 32 * kTeamWarps * Shape::kRowTeams);
  }
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

template <FloatType kType>
__device__ __forceinline__ uint32_t load_two(const void* values, int64_t i) {
  if constexpr (kType == FloatType::kF32) {
    const float2 pair = __ldg(reinterpret_cast<const float2*>(static_cast<const float*>(values) + i));
    return two_bf16(pair.x, pair.y);
  } else {
    return __ldg(reinterpret_cast<const uint32_t*>(static_cast<const __nv_bfloat16*>(values) + i));
  }
}

/// Heads past the last one are zeros. `first` is the block's first head, `query` the query's first head's
/// position.
template <typename Shape, FloatType kType>
__device__ __forceinline__ void load_queries(QueryFragments& q, const MlaArgs& args, int64_t query, int first,
                                             const MlaPlace<Shape>& at) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int step = 0; step < kDimsPerWarp / 16; ++step) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int head = first + at.first_head + 16 * m + at.g + 8 * (part % 2);
        const int dim = kDimsPerWarp * at.warp + 16 * step + 2 * at.t + 8 * (part / 2);
        const bool is_there = head < args.n_heads;
        q.a[m][step][part] =
            is_there ? load_two<kType>(args.queries, (query * args.n_heads + head) * kRowDims + dim) : 0U;
      }
    }
  }
}

/// The place of four scores of a head: chunks are swapped in every other pair of heads, against bank
/// conflicts.
__device__ __forceinline__ int score_chunk(int head, int chunk) {
  return chunk ^ (((head >> 1) & 1) * 2);
}

/// This warp's part of the scores of 32 heads and its team's 16 rows, into shared memory.
template <typename Shape>
__device__ __forceinline__ void partial_scores(MlaShared<Shape>& shared, const QueryFragments& q, int tile,
                                               const MlaPlace<Shape>& at) {
  float c[2][2][4] = {};
  const int row = kTeamRows * at.row_team + at.lane % 8 + at.lane / 16 * 8;
  const uint32_t from = shared_address(shared.tiles[tile % Shape::kTiles][row]) + 2 * kDimsPerWarp * at.warp +
                        16 * (at.lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < kDimsPerWarp / 16; ++step) {
    uint32_t b[4];
    load_matrices(b, from + 32 * step);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      mma_bf16(c[m][0], q.a[m][step], b[0], b[1]);
      mma_bf16(c[m][1], q.a[m][step], b[2], b[3]);
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = 16 * m + 8 * half + at.g;
        float* to =
            shared.scores[at.team][at.warp][head] + 4 * score_chunk(head, 2 * n + at.t / 2) + at.t % 2 * 2;
        *reinterpret_cast<float2*>(to) = make_float2(c[m][n][2 * half], c[m][n][2 * half + 1]);
      }
    }
  }
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
  const int head = static_cast<int>(threadIdx.x) / kPerHead;
  const int part = static_cast<int>(threadIdx.x) % kPerHead;
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
  const auto mask = *reinterpret_cast<const float4*>(shared.mask[tile % Shape::kMaskStages] + 4 * part);
  s[0] = fmaf(s[0], scale_log2, mask.x);
  s[1] = fmaf(s[1], scale_log2, mask.y);
  s[2] = fmaf(s[2], scale_log2, mask.z);
  s[3] = fmaf(s[3], scale_log2, mask.w);
  float largest = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
#pragma unroll
  for (int distance = 1; distance < kPerHead; distance *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
  }
  float rescale = 1.0F;
  if (largest > running.max + kSlack) {
    rescale = exp2f(running.max - largest);
    running.max = largest;
    running.sum *= rescale;
  }
#pragma unroll
  for (float& value : s) {
    value = exp2f(value - running.max);
    running.sum += value;
  }
  *reinterpret_cast<uint2*>(shared.weights[head] + 8 * part) =
      make_uint2(two_bf16(s[0], s[1]), two_bf16(s[2], s[3]));
  if (part == 0) {
    shared.rescale[head] = rescale;
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
                                               const MlaPlace<Shape>& at) {
  float by[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    by[i / 2][i % 2] = shared.rescale[at.first_head + 8 * i + at.g];
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
  rescale_output(shared, out, at);
#pragma unroll
  for (int step = 0; step < Shape::kRowTeams; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int head = at.first_head + 16 * m + at.lane % 16;
      load_matrices(a[m], shared_address(shared.weights[head]) + 32 * step + 16 * (at.lane / 16));
    }
    const int row = kTeamRows * step + at.lane % 16;
    const uint32_t from =
        shared_address(shared.tiles[tile % Shape::kTiles][row]) + 2 * first_column(at) + 16 * (at.lane / 16);
#pragma unroll
    for (int n = 0; n < Shape::kColumnsPerWarp / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, from + 32 * n);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_bf16(out.c[m][2 * n], a[m], b[0], b[1]);
        mma_bf16(out.c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Divides by the sums and writes; `first_row` is the position of the block's first head in args.out, `heads`
/// how many of the block's heads there are.
template <typename Shape, FloatType kOut>
__device__ __forceinline__ void write_output(const MlaShared<Shape>& shared, const MlaOutput<Shape>& out,
                                             void* to, int64_t first_row, int heads,
                                             const MlaPlace<Shape>& at) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int head = at.first_head + 8 * i + at.g;
    if (head >= heads) {
      continue;
    }
    const float sum = shared.sum[head];
    const float by = sum > 0.0F ? 1.0F / sum : 0.0F;
    const int64_t position = (first_row + head) * kLatent + first_column(at) + 2 * at.t;
#pragma unroll
    for (int n = 0; n < Shape::kColumnsPerWarp / 8; ++n) {
      const float low = out.c[i / 2][n][i % 2 * 2] * by;
      const float high = out.c[i / 2][n][i % 2 * 2 + 1] * by;
      if constexpr (kOut == FloatType::kF32) {
        *reinterpret_cast<float2*>(static_cast<float*>(to) + position + 8 * n) = make_float2(low, high);
      } else {
        *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(to) + position + 8 * n) =
            two_bf16(low, high);
      }
    }
  }
}

/// The entries of split `split` of `count`: whole tiles, so that only the last split has a part of one.
template <typename Shape>
__device__ __forceinline__ RowRange range_of(const MlaArgs& args, int64_t query, int split) {
  const int count = args.counts[query];
  const int tiles = (count + Shape::kTileRows - 1) / Shape::kTileRows;
  const int per_split = (tiles + args.splits - 1) / args.splits * Shape::kTileRows;
  const int begin = min(count, split * per_split);
  const int32_t* selected = args.selected == nullptr ? nullptr : args.selected + query * args.selected_stride;
  return {args.rows, selected, args.row_bytes, args.n_rows, begin, min(count, begin + per_split)};
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

/// All tiles of the block's range.
template <typename Shape>
__device__ __forceinline__ void attend_tiles(MlaShared<Shape>& shared, const RowRange& range,
                                             const QueryFragments& q, float scale_log2,
                                             RunningSoftmax& running, MlaOutput<Shape>& out,
                                             const MlaPlace<Shape>& at) {
  RowLoader<Shape> loader(shared, range);
  const int tiles = (range.end - range.begin + Shape::kTileRows - 1) / Shape::kTileRows;
#pragma unroll
  for (int tile = 0; tile < Shape::kStages - 1; ++tile) {
    loader.load(tile);
  }
  if constexpr (Shape::kAhead == 1) {
    wait_for_copies<Shape::kStages - 2>();
    __syncthreads();
    convert_fp8(shared, 0);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<Shape::kStages - 2 - Shape::kAhead>();
    __syncthreads();  // the tile is there, and nobody reads the one before it any more
    loader.load(tile + Shape::kStages - 1);
    if constexpr (Shape::kIsFp8) {
      convert_fp8(shared, tile + Shape::kAhead);
      if constexpr (Shape::kAhead == 0) {
        __syncthreads();
      }
    }
    partial_scores(shared, q, tile, at);
    at.sync_heads();
    softmax_tile(shared, running, tile, scale_log2);
    at.sync_heads();
    add_values(shared, out, tile, at);
  }
  wait_for_copies<0>();
}

/// Grid: x = query * head blocks + head block, y = split.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) mla_attend(const MlaArgs args) {
  extern __shared__ uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<MlaShared<Shape>*>(shared_bytes);
  const MlaPlace<Shape> at;
  const int head_blocks = (args.n_heads + Shape::kHeads - 1) / Shape::kHeads;
  const int64_t query = blockIdx.x / head_blocks;
  const int first = static_cast<int>(blockIdx.x % head_blocks) * Shape::kHeads;
  const int split = static_cast<int>(blockIdx.y);
  const int heads = min(Shape::kHeads, args.n_heads - first);
  const RowRange range = range_of<Shape>(args, query, split);
  const bool is_whole = args.splits == 1;
  const int64_t first_row = (query * args.splits + split) * args.n_heads + first;

  QueryFragments q;
  if (args.query_type == FloatType::kF32) {
    load_queries<Shape, FloatType::kF32>(q, args, query, first, at);
  } else {
    load_queries<Shape, FloatType::kBf16>(q, args, query, first, at);
  }
  RunningSoftmax running;
  MlaOutput<Shape> out{};
  attend_tiles(shared, range, q, args.scale_log2, running, out, at);

  float* log_sum_exp = args.log_sum_exp == nullptr ? nullptr : args.log_sum_exp + first_row;
  finish_softmax(shared, running, heads, log_sum_exp, is_whole ? 0.69314718F : 1.0F);
  __syncthreads();
  if (!is_whole && range.begin == range.end) {
    return;  // the log-sum-exp of -infinity says that there is nothing
  }
  if (is_whole && args.out_type == FloatType::kF32) {
    write_output<Shape, FloatType::kF32>(shared, out, args.out, first_row, heads, at);
  } else {
    write_output<Shape, FloatType::kBf16>(shared, out, args.out, first_row, heads, at);
  }
}

}  // namespace sluice::cuda::device
