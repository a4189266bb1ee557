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

bool MatmulScratch::holds_floats(const quant::PanelView& w) const {
  return w.panels() * quant::kPanelRows * padded(w.layout.cols) * 4 <= weights_.bytes();
}

void matmul_float(const quant::PanelView& w, const MatmulRows& rows, const MatmulScratch& scratch,
                  const Blas& blas, cudaStream_t stream) {
  if (!scratch.holds_floats(w)) {
    throw Error("matmul_float", "a scratch for " + std::to_string(w.rows) + " rows", "a smaller one");
  }
  if (rows.n_tokens == 0 || w.rows == 0) return;
  const int64_t stride = padded(w.layout.cols);
  auto* const weights = reinterpret_cast<float*>(scratch.weights().data());
  dequantize_f32(w, {0, w.panels()}, weights, stride, stream);
  blas.multiply(BlasFloatProduct{.w = weights,
                                 .w_stride = stride,
                                 .x = rows.x,
                                 .x_stride = rows.x_stride,
                                 .y = rows.y,
                                 .y_stride = rows.y_stride,
                                 .m = w.rows,
                                 .n = rows.n_tokens,
                                 .k = w.layout.cols,
                                 .scale = w.scale},
                stream);
}

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
    blas.multiply(BlasProduct{.w = scratch.weights().data(),
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
