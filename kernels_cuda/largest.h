// The largest logits of rows, for samplers: exact, ties to the smaller index, NaN worse than any number.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

struct LogitRows {
  const float* logits = nullptr;  // [rows, n] on the GPU
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t n = 0;
};

/// ids[r] = the index of row r's largest logit; 0 for a row of NaN. Throws Error when there is nothing to
/// choose from and when CUDA refuses the launch, as does largest_k; neither waits.
void argmax(const LogitRows& rows, int32_t* ids, cudaStream_t stream);

/// The k largest of each row, ascending by index; -0.0 counts as +0.0. ids and values [rows, k], 1 <= k <= n.
void largest_k(const LogitRows& rows, int64_t k, int32_t* ids, float* values, cudaStream_t stream);

}  // namespace sluice::cuda
