// Products of several matrices, each with a part of the tokens of its own: of an attention head's matrix with
// that head's part, which moves queries into the latent space and attended latents out of it (model formula
// 2.5, steps 1 and 4), and of the experts that few tokens chose (2.8, steps 5 and 6).
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

/// y[t][k][r] = scale * (row r of matrix m) . x[t][k], m = ids[t][k] and scale = scales[m] or w.scale.
/// Shapes, strides and alignments as above. Where an id is below 0 nothing is read, and y keeps what it has.
struct ChosenProduct {
  quant::PanelView w;             // matrix 0
  int64_t matrix_bytes = 0;       // from one matrix to the next, a multiple of 16
  const float* scales = nullptr;  // [matrices], or null: w.scale
  const int32_t* ids = nullptr;   // [n_tokens, used]
  int64_t used = 0;
  int64_t n_tokens = 0;
  const float* x = nullptr;  // [n_tokens, used, w.layout.cols]
  int64_t x_stride = 0;
  int64_t x_part_stride = 0;  // from one k to the next; 0: all meet the same row
  float* y = nullptr;         // [n_tokens, used, w.rows]
  int64_t y_stride = 0;
  int64_t y_part_stride = 0;
};

/// Weights are decoded to float32, products and sums are float32. A token's bits do not depend on the others.
/// Throws Error for shapes and types that are not as said here, and when CUDA refuses the launch. Does not
/// wait.
void head_product(const HeadProduct& product, cudaStream_t stream);

/// As head_product, but that sums are divided among four warps. A matrix is read once for each token that
/// chose it.
void chosen_product(const ChosenProduct& product, cudaStream_t stream);

}  // namespace sluice::cuda
