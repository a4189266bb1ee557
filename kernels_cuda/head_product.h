// Products of each attention head's matrix with that head's part of the tokens, which move queries into the
// latent space and attended latents out of it (model formula 2.5, steps 1 and 4).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "quant/panel.h"

namespace sluice::cuda {

/// Panels that hold the matrices of all heads: each head's begin with a panel of their own.
constexpr int64_t head_panels(int64_t rows) {
  return (rows + quant::kPanelRows - 1) / quant::kPanelRows;
}

/// y[t][h][r] = w.scale * (row r of head h) . x[t][h]. Strides in floats; those of x are multiples of 4 and x
/// is aligned to 16 bytes. Everything lies on the GPU; y must not overlap the inputs.
struct HeadProduct {
  quant::PanelView w;  // heads * head_panels(rows) panels; cols a multiple of 32
  int64_t heads = 0;
  int64_t rows = 0;  // of a head
  int64_t n_tokens = 0;
  const float* x = nullptr;   // [n_tokens, heads, w.layout.cols]
  int64_t x_stride = 0;       // from token to token
  int64_t x_head_stride = 0;  // from head to head
  float* y = nullptr;         // [n_tokens, heads, rows]
  int64_t y_stride = 0;
  int64_t y_head_stride = 0;
};

/// Weights are decoded to float32, products and sums are float32. A token's bits do not depend on the others.
/// Throws Error for shapes and types that are not as said here, and when CUDA refuses the launch. Does not
/// wait.
void head_product(const HeadProduct& product, cudaStream_t stream);

}  // namespace sluice::cuda
