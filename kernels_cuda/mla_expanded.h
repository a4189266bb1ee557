// Dense multi-head latent attention in the expanded form (model formula 2.5): every head has keys and values
// of its own, made from the cached rows (latent_expansion.h), and attention over them is flash attention. For
// many queries: 640 floating-point operations per query, row and head instead of the absorbed form's 2176
// (mla.h), but 262,144 per row and head before the first query. docs/cuda_attention.md has the design.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/latent_rows.h"
#include "kernels_cuda/mla.h"
#include "kernels_cuda/mla_expanded_plan.h"

namespace sluice::cuda {

/// For each head h of [first_head, first_head + heads), with k_j = [keys[h][j] | the last d_rope values of
/// row j]:
///   out[q][h] = sum_j softmax_j(softmax_scale * queries[q][h] . k_j) * values[h][j],   j < counts[q]
/// A query without rows gets zeros and a log-sum-exp of -infinity. Rows at or beyond the largest count are
/// not read, wherever they lie: they may hold anything. A query's result depends on its own inputs only (as
/// long as the rows that others see are finite), and is the same bits every time.
///
/// Arithmetic: queries, keys, values and softmax weights in bf16, sums in float32.
struct MlaExpandedParams {
  MlaExpandedShape shape{};
  const void* queries =
      nullptr;  // [n_queries, n_heads, d_nope + d_rope], row-major, aligned to 16: not absorbed
  FloatType query_type = FloatType::kF32;
  int64_t n_queries = 0;
  int64_t n_heads = 0;               // of queries, out and log_sum_exp
  int64_t first_head = 0;            // of the heads that this call computes; it touches no others
  int64_t heads = 0;                 // whose number that is
  const uint16_t* keys = nullptr;    // bf16 [heads, n_rows, d_nope], from first_head on, aligned to 16
  const uint16_t* values = nullptr;  // bf16 [heads, n_rows, d_value], likewise
  int64_t n_rows = 0;                // of keys and values, at most rope.n_rows
  LatentRows rope{};                 // the cached rows in bf16, d_latent + d_rope each
  int64_t d_latent = 512;            // where their rope part begins
  const int32_t* counts = nullptr;   // [n_queries] in device memory, each in [0, n_rows]
  float softmax_scale = 1.0F;        // positive
  void* out = nullptr;               // [n_queries, n_heads, d_value], row-major, aligned to 16
  FloatType out_type = FloatType::kF32;
  float* log_sum_exp = nullptr;  // [n_queries, n_heads], natural logarithm; nullptr: not wanted
};

/// Throws Error for shapes that mla_expanded_takes refuses, for impossible parameters and when CUDA refuses
/// the launch. Allocates nothing and does not synchronise: may be captured.
void launch_mla_expanded(const MlaExpandedParams& params, cudaStream_t stream);

}  // namespace sluice::cuda
