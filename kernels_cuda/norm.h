// RMSNorm and LayerNorm of rows (model formula 2.0), with the residual's addition where one comes first.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

/// A word of page-locked memory that a kernel writes when it runs, so that the host can tell how far a stream
/// has come. Null: nothing is written.
struct Mark {
  uint32_t* word = nullptr;
  uint32_t value = 0;
};

/// Rows of `n` floats on the GPU; strides in floats.
struct NormRows {
  const float* x = nullptr;  // [rows, n]
  int64_t x_stride = 0;
  float* y = nullptr;  // [rows, n]; may be x
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t n = 0;
  Mark mark = {};  // of rms_norm
};

/// y[i] = gain[i] * x[i] / sqrt(mean(x^2) + eps). gain [n] on the GPU. Sums of float32 in a fixed order.
/// Throws Error for negative shapes and when CUDA refuses the launch, as do all calls here; none waits.
void rms_norm(const NormRows& rows, const float* gain, float eps, cudaStream_t stream);

/// First x += delta, then the norm of the sum.
struct ResidualRows {
  float* x = nullptr;            // [rows, n], read and written; not y
  const float* delta = nullptr;  // [rows, n]
  int64_t delta_stride = 0;
};
/// rows.x is not looked at, rows.x_stride is that of residual.x.
void add_rms_norm(const ResidualRows& residual, const NormRows& rows, const float* gain, float eps,
                  cudaStream_t stream);

/// y[i] = gain[i] * (x[i] - mean) / sqrt(var + eps) + bias[i], biased variance.
void layer_norm(const NormRows& rows, const float* gain, const float* bias, float eps, cudaStream_t stream);

}  // namespace sluice::cuda
