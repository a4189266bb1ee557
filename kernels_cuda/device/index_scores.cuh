// Index scores on the matrix units. Keys are the rows of the product, heads its columns, so that the sum over
// heads stays within four lanes. A warp keeps its keys in registers for all queries of the block; queries
// pass through shared memory.
//
// A dot product does not care for the order of its terms if both sides have the same: a lane takes whole
// 16-byte chunks t, t + 4, .. of its rows as the operands of consecutive steps, so keys and queries are read
// 16 bytes at a time, unshuffled.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cuda/device/matrix_fragments.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/ptx.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/indexer.h"

namespace sluice::cuda::device {

inline constexpr int kIndexDims = 128;
inline constexpr int kMostIndexHeads = 64;

/// kGroupsArg groups of kKeyTilesArg tiles of 16 keys a warp. Groups are multiplied one after the other, so
/// the first ones need not wait for the keys of the last.
template <IndexKeyFormat kFormatArg, int kWarpsArg, int kKeyTilesArg, int kGroupsArg, int kStageQueriesArg>
struct IndexShape {
  static constexpr IndexKeyFormat kFormat = kFormatArg;
  static constexpr bool kIsInt8 = kFormat == IndexKeyFormat::kInt8;
  static constexpr int kWarps = kWarpsArg;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kKeyTiles = kKeyTilesArg;
  static constexpr int kGroups = kGroupsArg;
  static constexpr int kGroupKeys = 16 * kKeyTiles;
  static constexpr int kWarpKeys = kGroups * kGroupKeys;
  static constexpr int kBlockKeys = kWarps * kWarpKeys;
  static constexpr int kStageQueries = kStageQueriesArg;
  static constexpr int kStages = 2;
  static constexpr int kRowBytes = static_cast<int>(index_key_bytes(kFormat, kIndexDims));
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kLaneChunks = kRowChunks / 4;
  static constexpr int kParts = kIsInt8 ? 1 : 2;  // of a query's value
  static_assert(kKeyTiles % 2 == 0);
};

template <typename Shape>
struct IndexShared {
  struct Query {
    alignas(16) uint8_t heads[Shape::kParts][kMostIndexHeads * Shape::kRowBytes];
    alignas(16) float weights[kMostIndexHeads];
  };
  Query queries[Shape::kStages][Shape::kStageQueries];
};

struct IndexArgs {
  const uint8_t* query_values;
  const uint8_t* query_low;
  const float* query_weights;
  const uint8_t* keys;
  const float* key_scales;
  const int32_t* lengths;
  float* scores;
  int64_t score_stride;
  int n_queries;
  int queries_per_block;
  int n_heads;
  int n_keys;
  uint32_t zeros[4];  // what the compiler must not know to be zeros
};

/// Where 16 bytes of a head lie: halves of odd heads are swapped, against bank conflicts.
__device__ __forceinline__ int query_chunk(int head, int chunk) {
  return chunk ^ ((head & 1) * 4);
}

/// Starts the copies of one stage of queries, from query `first` on, and ends their group.
template <typename Shape>
__device__ __forceinline__ void load_query_stage(IndexShared<Shape>& shared, const IndexArgs& args, int first,
                                                 int last, int stage) {
  const int chunks = args.n_heads * Shape::kRowChunks;
  const int weight_chunks = args.n_heads / 4;
  for (int q = 0; q < Shape::kStageQueries && first + q < last; ++q) {
    auto& query = shared.queries[stage][q];
    const int64_t offset = int64_t{first + q} * args.n_heads;
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += Shape::kThreads) {
      const int head = i / Shape::kRowChunks;
      const int place = head * Shape::kRowChunks + query_chunk(head, i % Shape::kRowChunks);
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        const uint8_t* from = part == 0 ? args.query_values : args.query_low;
        ptx::copy_16_async(ptx::shared_address(query.heads[part] + 16 * place),
                           from + offset * Shape::kRowBytes + 16 * i, ptx::Fill::kCopy);
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < weight_chunks; i += Shape::kThreads) {
      ptx::copy_16_async(ptx::shared_address(query.weights + 4 * i), args.query_weights + offset + 4 * i,
                         ptx::Fill::kCopy);
    }
  }
  ptx::end_copy_group();
}

/// Among a group's keys, the one whose score sum_lanes leaves in out[i].
__device__ __forceinline__ int key_of_lane(int i) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return 32 * i + 16 * (lane / 2 % 2) + 8 * (lane % 2) + lane / 4;
}

/// A group of keys as they are loaded: rows g and g + 8 of each tile.
template <typename Shape>
struct KeyRows {
  uint4 chunks[Shape::kKeyTiles][2][Shape::kLaneChunks];
};

/// The same as the A operands of consecutive steps.
template <typename Shape>
struct KeyFragments {
  uint32_t a[Shape::kKeyTiles][2 * Shape::kLaneChunks][4];
};

template <typename Shape>
__device__ __forceinline__ void load_keys(KeyRows<Shape>& keys, float (&scales)[Shape::kKeyTiles / 2],
                                          const IndexArgs& args, int first_key) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = min(first_key + 16 * tile + 8 * half + lane / 4, args.n_keys - 1);
      const auto* row = reinterpret_cast<const uint4*>(args.keys + int64_t{key} * Shape::kRowBytes);
#pragma unroll
      for (int chunk = 0; chunk < Shape::kLaneChunks; ++chunk) {
        keys.chunks[tile][half][chunk] = __ldg(row + lane % 4 + 4 * chunk);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Shape::kKeyTiles / 2; ++i) {
    scales[i] =
        Shape::kIsInt8 ? __ldg(args.key_scales + min(first_key + key_of_lane(i), args.n_keys - 1)) : 1.0F;
  }
}

/// Words 2 step and 2 step + 1 of a lane's chunks.
template <size_t kChunks>
__device__ __forceinline__ uint2 words_of(const uint4 (&chunks)[kChunks], int step) {
  const uint4& c = chunks[step / 2];
  return step % 2 == 0 ? make_uint2(c.x, c.y) : make_uint2(c.z, c.w);
}

/// An operand's words have to be neighbours among the registers, and so have those of a load. Something is
/// computed from them (a zero that the compiler does not know is flipped in), so that they are moved once,
/// not before every product.
template <typename Shape>
__device__ __forceinline__ void arrange_keys(KeyFragments<Shape>& keys, const KeyRows<Shape>& rows,
                                             const IndexArgs& args) {
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
    for (int step = 0; step < 2 * Shape::kLaneChunks; ++step) {
      const uint2 upper = words_of(rows.chunks[tile][0], step);
      const uint2 lower = words_of(rows.chunks[tile][1], step);
      auto& a = keys.a[tile][step];
      a[0] = upper.x ^ args.zeros[0];
      a[1] = lower.x ^ args.zeros[1];
      a[2] = upper.y ^ args.zeros[2];
      a[3] = lower.y ^ args.zeros[3];
    }
  }
}

/// Twice the positive part: addition runs at full rate on every GPU, maximum does not.
__device__ __forceinline__ float twice_positive(float y) {
  return y + fabsf(y);
}

/// A query's eight heads in this lane: chunks of head g.
template <typename Shape>
__device__ __forceinline__ void load_heads(uint4 (&heads)[Shape::kLaneChunks], const uint8_t* from,
                                           int head) {
  const auto* row = reinterpret_cast<const uint4*>(from + head * Shape::kRowBytes);
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int chunk = 0; chunk < Shape::kLaneChunks; ++chunk) {
    heads[chunk] = row[query_chunk(head, t + 4 * chunk)];
  }
}

/// y[tile]: products of the warp's keys with eight heads, exact. The sums start at 1.5 * 2^23 in the bits of
/// a float, so that they are floats from the start: |sum| <= 128 * 127^2 < 2^22 stays within the float's last
/// bits.
template <typename Shape>
__device__ __forceinline__ void products_int8(float (&y)[Shape::kKeyTiles][4],
                                              const KeyFragments<Shape>& keys, const int32_t (&start)[4],
                                              const uint8_t* heads, int head) {
  constexpr float kBiasValue = 12582912.0F;
  uint4 b[Shape::kLaneChunks];
  load_heads<Shape>(b, heads, head);
  int32_t c[Shape::kKeyTiles][4];
#pragma unroll
  for (int step = 0; step < 2 * Shape::kLaneChunks; ++step) {
    const uint2 words = words_of(b, step);
#pragma unroll
    for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
      if (step == 0) {
        ptx::mma_int8(c[tile], keys.a[tile][step], words.x, words.y, start);
      } else {
        ptx::mma_int8(c[tile], keys.a[tile][step], words.x, words.y, c[tile]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[tile][i] = __int_as_float(c[tile][i]) - kBiasValue;
    }
  }
}

/// The same in bf16, with float32 sums: the upper and the lower parts of the queries are summed apart.
template <typename Shape>
__device__ __forceinline__ void products_bf16(float (&y)[Shape::kKeyTiles][4],
                                              const KeyFragments<Shape>& keys, const uint8_t* heads,
                                              const uint8_t* heads_low, int head) {
  float low[Shape::kKeyTiles][4] = {};
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[tile][i] = 0.0F;
    }
  }
  uint4 b[Shape::kLaneChunks];
  uint4 b_low[Shape::kLaneChunks];
  load_heads<Shape>(b, heads, head);
  load_heads<Shape>(b_low, heads_low, head);
#pragma unroll
  for (int step = 0; step < 2 * Shape::kLaneChunks; ++step) {
    const uint2 words = words_of(b, step);
    const uint2 words_low = words_of(b_low, step);
#pragma unroll
    for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
      ptx::mma_bf16(y[tile], keys.a[tile][step], words.x, words.y);
      ptx::mma_bf16(low[tile], keys.a[tile][step], words_low.x, words_low.y);
    }
  }
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[tile][i] += low[tile][i];
    }
  }
}

/// sums[tile][half]: this lane's two of every eight heads, for key g + 8 half of the tile.
template <typename Shape>
__device__ __forceinline__ void sum_heads(float (&sums)[Shape::kKeyTiles][2], const KeyFragments<Shape>& keys,
                                          const typename IndexShared<Shape>::Query& query,
                                          const IndexArgs& args) {
  constexpr uint32_t kBias = 0x4B400000U;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n_heads = args.n_heads;
  [[maybe_unused]] int32_t start[4];  // in registers of their own, not moved there before every product
#pragma unroll
  for (int i = 0; i < 4; ++i) start[i] = static_cast<int32_t>(kBias + args.zeros[i]);
#pragma unroll 1
  for (int first = 0; first < n_heads; first += 8) {
    float y[Shape::kKeyTiles][4];
    if constexpr (Shape::kIsInt8) {
      products_int8<Shape>(y, keys, start, query.heads[0], first + lane / 4);
    } else {
      products_bf16<Shape>(y, keys, query.heads[0], query.heads[1], first + lane / 4);
    }
    const auto weights = *reinterpret_cast<const float2*>(query.weights + first + 2 * (lane % 4));
#pragma unroll
    for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = sums[tile][half];
        sum = fmaf(weights.x, twice_positive(y[tile][2 * half]), sum);
        sum = fmaf(weights.y, twice_positive(y[tile][2 * half + 1]), sum);
      }
    }
  }
}

/// Adds up the four lanes of a key and leaves each with the keys key_of_lane(i).
template <typename Shape>
__device__ __forceinline__ void sum_lanes(float (&out)[Shape::kKeyTiles / 2],
                                          const float (&sums)[Shape::kKeyTiles][2]) {
  const bool is_odd = (threadIdx.x & 1) != 0;
  const bool is_upper = (threadIdx.x & 2) != 0;
  float of_row[Shape::kKeyTiles];
#pragma unroll
  for (int tile = 0; tile < Shape::kKeyTiles; ++tile) {
    const float other = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? sums[tile][0] : sums[tile][1], 1);
    of_row[tile] = (is_odd ? sums[tile][1] : sums[tile][0]) + other;
  }
#pragma unroll
  for (int i = 0; i < Shape::kKeyTiles / 2; ++i) {
    const float other = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? of_row[2 * i] : of_row[2 * i + 1], 2);
    out[i] = (is_upper ? of_row[2 * i + 1] : of_row[2 * i]) + other;
  }
}

/// The first query of [begin, end) that reaches beyond `key`; `end` when none does.
__device__ __forceinline__ int first_reaching(const int32_t* lengths, int begin, int end, int key) {
  int first = end;
  for (int q = begin + static_cast<int>(threadIdx.x) % 32; q < end; q += 32) {
    if (lengths[q] > key) {
      first = min(first, q);
    }
  }
  return __reduce_min_sync(0xFFFFFFFFU, first);
}

/// One query's scores of a group of keys from `first_key` on; scores.size() is the query's length.
template <typename Shape>
__device__ __forceinline__ void score_group(const KeyFragments<Shape>& keys,
                                            const float (&scales)[Shape::kKeyTiles / 2],
                                            const typename IndexShared<Shape>::Query& query,
                                            const IndexArgs& args, int first_key, std::span<float> scores) {
  float sums[Shape::kKeyTiles][2] = {};
  sum_heads<Shape>(sums, keys, query, args);
  float out[Shape::kKeyTiles / 2];
  sum_lanes<Shape>(out, sums);
#pragma unroll
  for (int i = 0; i < Shape::kKeyTiles / 2; ++i) {
    const int key = first_key + key_of_lane(i);
    if (key < static_cast<int>(scores.size())) {
      scores.data()[key] = out[i] * scales[i];
    }
  }
}

/// Grid: x = block of queries, y = block of keys.
template <typename Shape, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor)
    index_scores(const IndexArgs args) {
  SLUICE_DYNAMIC_SHARED(uint8_t, index_shared);
  auto& shared = *reinterpret_cast<IndexShared<Shape>*>(index_shared);
  const int block_key = static_cast<int>(blockIdx.y) * Shape::kBlockKeys;
  const int end = min(args.n_queries, static_cast<int>(blockIdx.x + 1) * args.queries_per_block);
  const int begin =
      first_reaching(args.lengths, static_cast<int>(blockIdx.x) * args.queries_per_block, end, block_key);
  if (begin == end) {
    return;
  }
  load_query_stage(shared, args, begin, end, 0);
  const int first_key = block_key + static_cast<int>(threadIdx.x) / 32 * Shape::kWarpKeys;
  KeyFragments<Shape> keys[Shape::kGroups];
  float scales[Shape::kGroups][Shape::kKeyTiles / 2];
#pragma unroll
  for (int group = 0; group < Shape::kGroups; ++group) {
    KeyRows<Shape> rows;
    load_keys(rows, scales[group], args, first_key + Shape::kGroupKeys * group);
    arrange_keys(keys[group], rows, args);
  }
  int stage = 0;
  for (int first = begin; first < end; first += Shape::kStageQueries, stage ^= 1) {
    ptx::wait_for_copies<0>();
    __syncthreads();  // this stage is there, and the other one is read no more
    load_query_stage(shared, args, first + Shape::kStageQueries, end, stage ^ 1);
    for (int q = 0; q < Shape::kStageQueries && first + q < end; ++q) {
      const int length = __ldg(args.lengths + first + q);
      if (first_key >= length) {
        continue;
      }
      float* scores = args.scores + int64_t{first + q} * args.score_stride;
#pragma unroll
      for (int group = 0; group < Shape::kGroups; ++group) {
        const int group_key = first_key + Shape::kGroupKeys * group;
        if (group_key < length) {
          score_group<Shape>(keys[group], scales[group], shared.queries[stage][q], args, group_key,
                             {scores, static_cast<size_t>(length)});
        }
      }
    }
  }
}

/// Asks the L2 for the keys of a block of them, as far as they are not behind `length`.
template <typename Shape>
__device__ __forceinline__ void ask_for_keys(const IndexArgs& args, int block_key, int length) {
  constexpr int kLine = 128;
  constexpr int kEach = Shape::kBlockKeys * Shape::kRowBytes / (kLine * Shape::kThreads);
  static_assert(kEach * kLine * Shape::kThreads == Shape::kBlockKeys * Shape::kRowBytes);
  const int bytes = (length - block_key) * Shape::kRowBytes;
  const uint8_t* from = args.keys + int64_t{block_key} * Shape::kRowBytes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = (i * Shape::kThreads + static_cast<int>(threadIdx.x)) * kLine;
    if (at < bytes) ptx::prefetch_to_l2(from + at);
  }
}

/// A query for each block, for few queries: grid x = every gridDim.x-th block of keys, y = query. The keys of
/// a block are loaded while those before them are multiplied; bf16 keys fill the registers, their grid has as
/// many blocks as there are of keys.
template <typename Shape, int kBlocksPerMultiprocessor>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksPerMultiprocessor)
    index_scores_of_one(const IndexArgs args) {
  static_assert(Shape::kGroups == 1);
  SLUICE_DYNAMIC_SHARED(uint8_t, index_shared);
  auto& shared = *reinterpret_cast<IndexShared<Shape>*>(index_shared);
  const auto query = static_cast<int>(blockIdx.y);
  const int step = static_cast<int>(gridDim.x) * Shape::kBlockKeys;
  const int block_key = static_cast<int>(blockIdx.x) * Shape::kBlockKeys;
  let_next_begin();
  if (query == 0) {
    // The last token's length will do for that; past the L1, where it would be found again.
    const int likely = min(__ldcg(args.lengths), args.n_keys);
    ask_for_keys<Shape>(args, block_key, likely);
    ask_for_keys<Shape>(args, block_key + step, likely);
  }
  wait_for_last();
  const int length = args.lengths[query];
  if (block_key >= length) return;
  load_query_stage(shared, args, query, query + 1, 0);
  int first_key = block_key + static_cast<int>(threadIdx.x) / 32 * Shape::kWarpKeys;
  KeyRows<Shape> rows;
  float next_scales[Shape::kKeyTiles / 2];
  load_keys(rows, next_scales, args, first_key);
  ptx::wait_for_copies<0>();
  __syncthreads();
  for (; first_key < length; first_key += step) {
    KeyFragments<Shape> keys;
    float scales[Shape::kKeyTiles / 2];
    arrange_keys(keys, rows, args);
#pragma unroll
    for (int i = 0; i < Shape::kKeyTiles / 2; ++i) scales[i] = next_scales[i];
    if constexpr (Shape::kIsInt8) {  // others have no next ones
      if (first_key + step < length) load_keys(rows, next_scales, args, first_key + step);
    }
    score_group<Shape>(keys, scales, shared.queries[0][0], args, first_key,
                       {args.scores + int64_t{query} * args.score_stride, static_cast<size_t>(length)});
  }
}

}  // namespace sluice::cuda::device
