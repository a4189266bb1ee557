#include "kernels_cuda/latent_expansion.h"

#include <string>

#include "kernels_cuda/dequantize.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

void require(bool holds, const char* what, int64_t found) {
  if (!holds) {
    throw Error("expansion of latent rows", what, std::to_string(found));
  }
}

/// Matrices of one kind: `rows` rows of each head, decoded one head after the other.
struct HeadMatrices {
  const quant::PanelView& w;
  int64_t rows;
  BlasBatch::Weights weights;
  int64_t outputs;  // of each row and head
  uint16_t* y;
};

void expand(const LatentExpansion& e, const HeadMatrices& matrices, const Blas& blas, cudaStream_t stream) {
  const int64_t cols = matrices.w.layout.cols;
  const int64_t panels = matrices.rows / quant::kPanelRows;
  dequantize_bf16(matrices.w, {e.first_head * panels, e.heads * panels}, e.weights, cols, stream);
  blas.multiply(BlasBatch{.w = e.weights,
                          .w_stride = cols,
                          .w_matrix_stride = matrices.rows * cols,
                          .weights = matrices.weights,
                          .x = static_cast<const uint16_t*>(e.rows.data),
                          .x_stride = e.rows.row_bytes / 2,
                          .y = matrices.y,
                          .y_stride = matrices.outputs,
                          .y_matrix_stride = e.n_rows * matrices.outputs,
                          .m = matrices.outputs,
                          .n = e.n_rows,
                          .k = e.d_latent,
                          .count = e.heads,
                          .scale = matrices.w.scale},
                stream);
}

}  // namespace

void check_latent_expansion(const LatentExpansion& e) {
  require(e.d_latent > 0 && e.d_latent % quant::kPanelRows == 0, "d_latent a multiple of 16", e.d_latent);
  require(e.shape.d_value > 0 && e.shape.d_value % quant::kPanelRows == 0, "d_value a multiple of 16",
          e.shape.d_value);
  require(e.shape.d_nope > 0 && e.shape.d_nope % 8 == 0, "d_nope a multiple of 8", e.shape.d_nope);
  require(e.key_b.layout.cols == e.shape.d_nope, "d_nope columns of key weights", e.key_b.layout.cols);
  require(e.value_b.layout.cols == e.d_latent, "d_latent columns of value weights", e.value_b.layout.cols);
  const int64_t last = e.first_head + e.heads;
  require(e.first_head >= 0 && e.heads >= 1 && last * e.d_latent <= e.key_b.rows &&
              last * e.shape.d_value <= e.value_b.rows,
          "heads that there are weights of", last);
  require(e.rows.format == LatentFormat::kBf16 && e.rows.row_bytes % 16 == 0 &&
              e.rows.row_bytes >= 2 * e.d_latent,
          "rows in bf16, of row_bytes a multiple of 16 that hold d_latent", e.rows.row_bytes);
  require(e.n_rows >= 0 && e.n_rows <= e.rows.n_rows, "no more rows than there are", e.n_rows);
}

void expand_latents(const LatentExpansion& e, const Blas& blas, cudaStream_t stream) {
  check_latent_expansion(e);
  if (e.n_rows == 0) {
    return;
  }
  expand(e, {e.key_b, e.d_latent, BlasBatch::Weights::kColumns, e.shape.d_nope, e.keys}, blas, stream);
  expand(e, {e.value_b, e.shape.d_value, BlasBatch::Weights::kRows, e.shape.d_value, e.values}, blas, stream);
}

}  // namespace sluice::cuda
