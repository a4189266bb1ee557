// The lightning indexer on the GPU (model formula 2.6): queries as the score kernels want them, and scores of
// many queries against many cached keys, summed over the heads and never stored per head.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/index_key_format.h"

namespace sluice::cuda {

/// Cached keys in device memory, [n_keys, d_index] without gaps, aligned to 16.
struct IndexKeys {
  const void* values = nullptr;
  const float* scales = nullptr;  // [n_keys]; kInt8 only
  IndexKeyFormat format = IndexKeyFormat::kBf16;
  int64_t n_keys = 0;
};

/// Queries for keys of a format, written by launch_index_queries. All in device memory, aligned to 16.
struct IndexQueries {
  void* values = nullptr;    // [n_queries, n_heads, d_index]: int8 codes, the upper bf16, or floats
  void* low = nullptr;       // kBf16 only, the same shape: bf16 of what the upper one leaves
  float* weights = nullptr;  // [n_queries, n_heads]: half of the weight, times the codes' scale for kInt8
};

struct IndexQueryParams {
  const float* heads = nullptr;    // [n_queries, n_heads, d_index] after RoPE, row-major
  const float* weights = nullptr;  // [n_queries, n_heads], already scaled
  int64_t n_queries = 0;
  int64_t n_heads = 64;
  int64_t d_index = 128;  // at most 256; a power of two where it is rotated
  IndexKeyFormat format = IndexKeyFormat::kBf16;
  IndexQueries out{};
};

/// Fills params.out. For kInt8 the heads are rotated first (orthonormal Hadamard), as the cached keys must
/// have been. Throws Error for impossible shapes and when CUDA refuses the launch; does not synchronise.
void launch_index_queries(const IndexQueryParams& params, cudaStream_t stream);

/// scores[q][j] = sum_h w[q][h] * max(0, query[q][h] . key_j), j < lengths[q]; what lies behind is not
/// written.
struct IndexScoreParams {
  IndexQueries queries{};
  IndexKeys keys{};
  int64_t n_queries = 0;
  int64_t n_heads = 64;
  int64_t d_index = 128;
  const int32_t* lengths = nullptr;  // [n_queries], device, each in [0, most_keys]
  int64_t most_keys = 0;             // at most keys.n_keys
  float* scores = nullptr;           // [n_queries, score_stride], device
  int64_t score_stride = 0;          // in floats, at least most_keys
};

/// Int8 products and their sums are exact; the sum over heads is float32 in a fixed order, the same for every
/// query, chunk and position. d_index of 128 and n_heads of 8 to 64 in eights run on the matrix units (kBf16,
/// kInt8), all else in a plain kernel. Throws Error for impossible shapes and when CUDA refuses the launch.
/// Allocates nothing, does not synchronise.
void launch_index_scores(const IndexScoreParams& params, cudaStream_t stream);

}  // namespace sluice::cuda
