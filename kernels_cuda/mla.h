// Absorbed multi-head latent attention on the GPU (model formula 2.5): sparse (a list of rows per query) and
// dense (all rows up to a length), decode (few queries: the rows are split over blocks and merged) and
// prefill (a block has all rows of its query). docs/cuda_attention.md has the design and the figures.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/latent_rows.h"
#include "kernels_cuda/mla_plan.h"

namespace sluice::cuda {

enum class FloatType { kF32, kBf16 };

/// out[q][h] = sum_j softmax_j(softmax_scale * queries[q][h] . row_j) * row_j[0, d_latent), j over the rows
/// of query q:
///   sparse  row_j = rows[selected[q][i]], i < counts[q]; an entry that is negative or >= rows.n_rows counts
///   as absent dense   row_j = rows[j],              j < counts[q]   (selected == nullptr)
/// A query without rows gets zeros and a log-sum-exp of -infinity. Rows that are not selected are not read:
/// they may hold anything. The result of a query depends on its own inputs and on `plan` only, and is the
/// same bits every time.
///
/// Arithmetic: queries, rows and softmax weights in bf16, sums in float32. LatentFormat::kF32 and shapes
/// other than 512 + 64 go to a plain float32 kernel that rounds nothing (see mla_is_fast).
struct MlaParams {
  const void* queries =
      nullptr;  // [n_queries, n_heads, d_latent + d_rope], row-major: absorbed latent part first
  FloatType query_type = FloatType::kF32;
  int64_t n_queries = 0;
  int64_t n_heads = 0;  // at most 65,535
  int64_t d_latent = 512;
  int64_t d_rope = 64;
  LatentRows rows{};
  const int32_t* selected = nullptr;  // [n_queries, selected_stride], or nullptr: dense
  int64_t selected_stride = 0;
  const int32_t* counts =
      nullptr;  // [n_queries] in device memory, each in [0, selected_stride] or [0, rows.n_rows]
  float softmax_scale = 1.0F;
  MlaPlan plan{};
  void* scratch = nullptr;  // mla_scratch_bytes() of device memory, aligned to 16; none for one split
  void* out = nullptr;      // [n_queries, n_heads, d_latent], row-major, aligned to 16
  FloatType out_type = FloatType::kF32;
  float* log_sum_exp = nullptr;  // [n_queries, n_heads], natural logarithm; nullptr: not wanted
};

/// Whether the fast kernels serve these parameters, or the plain one.
bool mla_is_fast(const MlaParams& params);

/// Throws Error for impossible parameters and when CUDA refuses the launch. Allocates nothing and does not
/// synchronise: may be captured.
void launch_mla(const MlaParams& params, cudaStream_t stream);

/// bf16_rows[r] = rows[r] in bf16, r < n_rows: FP8 rows become [n_rows, d_latent + d_rope] of bf16 once, for
/// a prefill in which many queries read each row. rows.format must be kFp8.
void launch_latent_to_bf16(const LatentRows& rows, int64_t n_rows, int64_t d_latent, int64_t d_rope,
                           void* bf16_rows, cudaStream_t stream);

}  // namespace sluice::cuda
