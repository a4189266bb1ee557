// Exact, deterministic top-k of long rows on the GPU: larger score first, then smaller position (model
// formula 2.6, step 8).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/topk_plan.h"

namespace sluice::cuda {

/// For each row the positions of the min(k, length) largest of its first lengths[row] scores, ascending, then
/// -1 up to k. -0.0 counts as +0.0, a NaN is smaller than everything. Always the same result; nothing is ever
/// dropped.
struct TopKParams {
  const float* scores = nullptr;  // [n_rows, score_stride], device, aligned to 16
  int64_t score_stride = 0;       // in floats, a multiple of 4
  int64_t n_rows = 0;
  const int32_t* lengths = nullptr;  // [n_rows], device, each in [0, most_scores]
  int64_t most_scores = 0;           // at most kMostTopKScores and score_stride
  int64_t k = kMostTopK;             // at most kMostTopK
  int32_t* selected = nullptr;       // [n_rows, k], device
  int32_t* counts = nullptr;         // [n_rows], device: min(k, length)
  void* scratch = nullptr;           // top_k_scratch_bytes() of device memory, aligned to 16
};

/// One kernel that gives each row to a block; another one before it when rows are few and may be long, in
/// which several blocks list a row's candidates. Throws Error for impossible parameters and when CUDA refuses
/// the launch. Allocates nothing, does not synchronise.
void launch_top_k(const TopKParams& params, cudaStream_t stream);

}  // namespace sluice::cuda
