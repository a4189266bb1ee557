#include "kernels_cuda/matmul.h"

#include <algorithm>
#include <string>

#include "kernels_cuda/dequantize.h"
#include "kernels_cuda/elementwise.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

/// cuBLAS wants rows that start at multiples of 16 bytes.
constexpr int64_t padded(int64_t cols) {
  return (cols + 7) / 8 * 8;
}

}  // namespace

MatmulScratch::MatmulScratch(int64_t tokens, int64_t cols, int64_t weight_bytes)
    : x_(tokens * padded(cols)), weights_(std::max(weight_bytes / 2, quant::kPanelRows * padded(cols))) {}

void matmul(const quant::PanelView& w, const MatmulRows& rows, const MatmulScratch& scratch, const Blas& blas,
            cudaStream_t stream) {
  const int64_t cols = w.layout.cols;
  const int64_t stride = padded(cols);
  const int64_t panels = scratch.weights().size() / (quant::kPanelRows * stride);
  if (rows.n_tokens * stride > scratch.x().size() || panels == 0) {
    throw Error("matmul",
                "a scratch for " + std::to_string(rows.n_tokens) + " tokens of " + std::to_string(cols),
                "a smaller one");
  }
  if (rows.n_tokens == 0 || w.rows == 0) return;
  to_bf16({rows.x, rows.x_stride, scratch.x().data(), stride, rows.n_tokens, cols}, stream);
  for (int64_t begin = 0; begin < w.panels(); begin += panels) {
    const int64_t count = std::min(panels, w.panels() - begin);
    const int64_t first = begin * quant::kPanelRows;
    dequantize_bf16(w, {begin, count}, scratch.weights().data(), stride, stream);
    blas.multiply({.w = scratch.weights().data(),
                   .w_stride = stride,
                   .x = scratch.x().data(),
                   .x_stride = stride,
                   .y = rows.y + first,
                   .y_stride = rows.y_stride,
                   .m = std::min(count * quant::kPanelRows, w.rows - first),
                   .n = rows.n_tokens,
                   .k = cols,
                   .scale = w.scale},
                  stream);
  }
}

}  // namespace sluice::cuda
