// Products of panels with many tokens: weights to bf16, piece by piece, then cuBLAS.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/blas.h"
#include "quant/panel.h"

namespace sluice::cuda {

/// Working memory of matmul: x in bf16 and a piece of the weights in bf16.
class MatmulScratch {
 public:
  /// For up to `tokens` tokens and `cols` columns, and `weight_bytes` for a piece, which holds a panel at
  /// least. Throws Error.
  MatmulScratch(int64_t tokens, int64_t cols, int64_t weight_bytes);

  [[nodiscard]] const DeviceBuffer<uint16_t>& x() const { return x_; }
  [[nodiscard]] const DeviceBuffer<uint16_t>& weights() const { return weights_; }
  /// Whether it holds all of w in float32.
  [[nodiscard]] bool holds_floats(const quant::PanelView& w) const;

 private:
  DeviceBuffer<uint16_t> x_;
  DeviceBuffer<uint16_t> weights_;
};

/// Tokens on the GPU, rows `stride` floats apart.
struct MatmulRows {
  const float* x = nullptr;  // [n_tokens, w.layout.cols]
  int64_t x_stride = 0;
  float* y = nullptr;  // [n_tokens, w.rows], must not overlap x
  int64_t y_stride = 0;
  int64_t n_tokens = 0;
};

/// y[t][r] = w.scale * bf16(row r of w) . bf16(x[t]), sums of float32. Throws Error when the scratch is too
/// small, for types that are no weights, and when CUDA or cuBLAS refuses. Does not wait.
void matmul(const quant::PanelView& w, const MatmulRows& rows, const MatmulScratch& scratch, const Blas& blas,
            cudaStream_t stream);

/// The same without any rounding to bf16: decoded weights and x are multiplied as float32. The scratch's
/// memory for weights must hold the whole matrix so, its memory for x is not needed.
void matmul_float(const quant::PanelView& w, const MatmulRows& rows, const MatmulScratch& scratch,
                  const Blas& blas, cudaStream_t stream);

}  // namespace sluice::cuda
