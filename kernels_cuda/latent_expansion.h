// Keys and values of heads from cached latent rows (model formula 2.5, expanded form): for attention in the
// form of mla_expanded.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/blas.h"
#include "kernels_cuda/latent_rows.h"
#include "kernels_cuda/mla_expanded_plan.h"
#include "quant/panel.h"

namespace sluice::cuda {

/// For each head h of [first_head, first_head + heads) and each row r < n_rows, c the row's first d_latent
/// values:
///   keys[h][r]   = bf16(key_b.scale * W_k[h]^T c),  W_k[h] [d_latent, d_nope]
///   values[h][r] = bf16(value_b.scale * W_v[h] c),  W_v[h] [d_value, d_latent]
/// Weights are decoded to bf16, sums are float32. d_latent and d_value are multiples of 16, d_nope of 8.
/// Everything lies on the GPU, aligned to 16 bytes.
struct LatentExpansion {
  MlaExpandedShape shape{};  // d_rope: that of the rows, not looked at
  int64_t d_latent = 512;
  quant::PanelView key_b{};    // all heads' matrices, one after the other: d_latent rows each, d_nope columns
  quant::PanelView value_b{};  // likewise d_value rows each, d_latent columns
  int64_t first_head = 0;
  int64_t heads = 0;
  LatentRows rows{};            // bf16
  int64_t n_rows = 0;           // the first of them; others are not read
  uint16_t* weights = nullptr;  // working memory: latent_expansion_weights() of the plan
  uint16_t* keys = nullptr;     // [heads, n_rows, d_nope]
  uint16_t* values = nullptr;   // [heads, n_rows, d_value]
};

/// Throws Error for parameters that are not as said here.
void check_latent_expansion(const LatentExpansion& expansion);

/// Throws Error as check_latent_expansion does and when CUDA or cuBLAS refuses. Allocates nothing
/// and does not wait.
void expand_latents(const LatentExpansion& expansion, const Blas& blas, cudaStream_t stream);

}  // namespace sluice::cuda
