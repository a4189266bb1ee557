// Launches of the lightning indexer's score kernels, and the plain kernel for the shapes that they do not
// serve.
#include "kernels_cuda/indexer.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/index_scores.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using device::IndexArgs;
using device::IndexShape;
using device::kIndexDims;
using device::kMostIndexHeads;

// For many queries a block has 512 (bf16: 256) keys and up to 64 queries; for few, less, so that every
// multiprocessor gets some.
using ManyInt8 = IndexShape<IndexKeyFormat::kInt8, 8, 4, 1, 2>;
using FewInt8 = IndexShape<IndexKeyFormat::kInt8, 4, 2, 1, 1>;
using ManyBf16 = IndexShape<IndexKeyFormat::kBf16, 8, 2, 1, 1>;
using FewBf16 = IndexShape<IndexKeyFormat::kBf16, 4, 2, 1, 1>;
constexpr int64_t kFewQueries = 8;
constexpr int64_t kMostQueriesPerBlock = 64;

constexpr int kPlainThreads = 256;
constexpr int kPlainWarps = kPlainThreads / 32;
constexpr int kPlainKeysPerWarp = 8;
constexpr int kMostLaneValues = 8;
constexpr int64_t kMostPlainDims = 32 * kMostLaneValues;

struct PlainArgs {
  const void* query_values;
  const void* query_low;
  const float* query_weights;
  const void* keys;
  const float* key_scales;
  const int32_t* lengths;
  float* scores;
  int64_t score_stride;
  int n_heads;
  int d_index;
  IndexKeyFormat format;
};

__device__ float plain_value(IndexKeyFormat format, const void* values, int64_t i) {
  if (format == IndexKeyFormat::kF32) {
    return static_cast<const float*>(values)[i];
  }
  if (format == IndexKeyFormat::kBf16) {
    return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
  }
  return static_cast<float>(static_cast<const int8_t*>(values)[i]);
}

/// Grid: x = query, y = block of keys. A warp has a key at a time, a lane every 32nd dimension.
__global__ void __launch_bounds__(kPlainThreads) index_scores_plain(const PlainArgs args) {
  const int64_t query = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first =
      (static_cast<int>(blockIdx.y) * kPlainWarps + static_cast<int>(threadIdx.x) / 32) * kPlainKeysPerWarp;
  const int last = min(first + kPlainKeysPerWarp, args.lengths[query]);
  for (int key = first; key < last; ++key) {
    float values[kMostLaneValues];
#pragma unroll
    for (int i = 0; i < kMostLaneValues; ++i) {
      const int dim = lane + 32 * i;
      values[i] =
          dim < args.d_index ? plain_value(args.format, args.keys, int64_t{key} * args.d_index + dim) : 0.0F;
    }
    float score = 0.0F;
    for (int head = 0; head < args.n_heads; ++head) {
      const int64_t row = (query * args.n_heads + head) * args.d_index;
      float sum = 0.0F;
#pragma unroll
      for (int i = 0; i < kMostLaneValues; ++i) {
        const int dim = lane + 32 * i;
        if (dim < args.d_index) {
          float q = plain_value(args.format, args.query_values, row + dim);
          if (args.format == IndexKeyFormat::kBf16) {
            q += plain_value(args.format, args.query_low, row + dim);
          }
          sum = fmaf(q, values[i], sum);
        }
      }
      for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
      }
      score = fmaf(args.query_weights[query * args.n_heads + head], device::twice_positive(sum), score);
    }
    if (lane == 0) {
      args.scores[query * args.score_stride + key] =
          args.format == IndexKeyFormat::kInt8 ? score * args.key_scales[key] : score;
    }
  }
}

IndexArgs args_of(const IndexScoreParams& p, int64_t queries_per_block) {
  return {.query_values = static_cast<const uint8_t*>(p.queries.values),
          .query_low = static_cast<const uint8_t*>(p.queries.low),
          .query_weights = p.queries.weights,
          .keys = static_cast<const uint8_t*>(p.keys.values),
          .key_scales = p.keys.scales,
          .lengths = p.lengths,
          .scores = p.scores,
          .score_stride = p.score_stride,
          .n_queries = static_cast<int>(p.n_queries),
          .queries_per_block = static_cast<int>(queries_per_block),
          .n_heads = static_cast<int>(p.n_heads),
          .n_keys = static_cast<int>(p.keys.n_keys),
          .zeros = {}};
}

/// int8 keys: no more blocks than the GPU holds at once, each going round.
template <typename Shape, int kBlocksPerMultiprocessor>
void launch_few(const IndexScoreParams& p, cudaStream_t stream) {
  constexpr const char* kName = "index_scores_of_one";
  auto* kernel = device::index_scores_of_one<Shape, kBlocksPerMultiprocessor>;
  // A single stage of queries needs no second buffer, and more blocks fit without it.
  constexpr auto kBytes = static_cast<int64_t>(sizeof(device::IndexShared<Shape>)) / Shape::kStages;
  allow_shared<kBytes>(kernel, kName);
  int64_t blocks = ceil_div<int64_t>(p.most_keys, Shape::kBlockKeys);
  if (Shape::kIsInt8) {
    const int64_t at_once = multiprocessors() * kBlocksPerMultiprocessor;
    blocks = std::min(blocks, std::max<int64_t>(1, at_once / p.n_queries));
  }
  launch_overlapping(kernel, kName,
                     {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.n_queries)),
                      .block = dim3(Shape::kThreads),
                      .shared_bytes = kBytes,
                      .stream = stream},
                     args_of(p, 1));
}

/// As many as a block's keys are worth loading for, but fewer where that leaves multiprocessors without a
/// block.
int64_t queries_per_block(int64_t n_queries, int64_t key_blocks, int64_t blocks_at_once) {
  const int64_t groups =
      std::max(ceil_div(n_queries, kMostQueriesPerBlock), std::max<int64_t>(1, blocks_at_once / key_blocks));
  return ceil_div(n_queries, std::min(groups, n_queries));
}

template <typename Shape, int kBlocksPerMultiprocessor>
void launch_many(const IndexScoreParams& p, cudaStream_t stream) {
  constexpr const char* kName = "index_scores";
  auto* kernel = device::index_scores<Shape, kBlocksPerMultiprocessor>;
  constexpr auto kBytes = static_cast<int64_t>(sizeof(device::IndexShared<Shape>));
  allow_shared<kBytes>(kernel, kName);
  const auto key_blocks = ceil_div<int64_t>(p.most_keys, Shape::kBlockKeys);
  const int64_t queries =
      queries_per_block(p.n_queries, key_blocks, multiprocessors() * kBlocksPerMultiprocessor);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n_queries, queries)), static_cast<unsigned>(key_blocks));
  launch_kernel(kernel, kName,
                {.grid = grid, .block = dim3(Shape::kThreads), .shared_bytes = kBytes, .stream = stream},
                args_of(p, queries));
}

template <typename Few, typename Many>
void launch_fast(const IndexScoreParams& p, cudaStream_t stream) {
  if (p.n_queries <= kFewQueries) {
    launch_few<Few, Few::kIsInt8 ? 4 : 3>(p, stream);
  } else {
    launch_many<Many, 2>(p, stream);
  }
}

void launch_plain(const IndexScoreParams& p, cudaStream_t stream) {
  const PlainArgs args{.query_values = p.queries.values,
                       .query_low = p.queries.low,
                       .query_weights = p.queries.weights,
                       .keys = p.keys.values,
                       .key_scales = p.keys.scales,
                       .lengths = p.lengths,
                       .scores = p.scores,
                       .score_stride = p.score_stride,
                       .n_heads = static_cast<int>(p.n_heads),
                       .d_index = static_cast<int>(p.d_index),
                       .format = p.keys.format};
  const dim3 grid(static_cast<unsigned>(p.n_queries),
                  static_cast<unsigned>(ceil_div<int64_t>(p.most_keys, kPlainWarps * kPlainKeysPerWarp)));
  launch_kernel(index_scores_plain, "index_scores_plain",
                {.grid = grid, .block = dim3(kPlainThreads), .stream = stream}, args);
}

void check_params(const IndexScoreParams& p) {
  const auto require = [](bool holds, const char* what, int64_t found) {
    if (!holds) {
      throw Error("index scores on the GPU", what, std::to_string(found));
    }
  };
  require(p.n_queries >= 0 && p.n_queries < (int64_t{1} << 31), "fewer than 2^31 queries", p.n_queries);
  require(p.n_heads >= 1, "a head or more", p.n_heads);
  require(p.d_index >= 1 && p.d_index <= kMostPlainDims, "1 to 256 dimensions", p.d_index);
  require(p.most_keys >= 0 && p.most_keys <= p.keys.n_keys && p.keys.n_keys < (int64_t{1} << 22),
          "no more keys than there are, and fewer than 2^22", p.most_keys);
  require(p.score_stride >= p.most_keys, "a stride of a row of scores or more", p.score_stride);
  require(p.keys.format != IndexKeyFormat::kInt8 || p.keys.scales != nullptr, "scales of the keys", 0);
}

}  // namespace

void launch_index_scores(const IndexScoreParams& params, cudaStream_t stream) {
  check_params(params);
  if (params.n_queries == 0 || params.most_keys == 0) {
    return;
  }
  const bool is_fast = params.keys.format != IndexKeyFormat::kF32 && params.d_index == kIndexDims &&
                       params.n_heads % 8 == 0 && params.n_heads <= kMostIndexHeads;
  if (!is_fast) {
    launch_plain(params, stream);
  } else if (params.keys.format == IndexKeyFormat::kInt8) {
    launch_fast<FewInt8, ManyInt8>(params, stream);
  } else {
    launch_fast<FewBf16, ManyBf16>(params, stream);
  }
}

}  // namespace sluice::cuda
