#include "kernels_cpu/panel_matmul.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace sluice::cpu {
namespace {

// Tokens that meet a panel at a time: enough that decoding it vanishes behind the products (chosen).
constexpr int64_t kTokenTile = 128;

/// Calls product(panel, first token, tokens, out [tokens, 16]) for every panel and tile, and puts the results
/// into y.
template <class Product>
void for_each_tile(const quant::PanelView& w, int64_t panel_begin, int64_t panel_end, MatrixView<float> y,
                   const Product& product) {
  std::array<float, kTokenTile * quant::kPanelRows> out;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int64_t row = p * quant::kPanelRows;
    const int64_t rows = std::min(quant::kPanelRows, w.rows - row);
    for (int64_t t0 = 0; t0 < y.rows; t0 += kTokenTile) {
      const int64_t tokens = std::min(kTokenTile, y.rows - t0);
      product(w.panel(p), t0, tokens, out.data());
      for (int64_t t = 0; t < tokens; ++t) {
        float* target = y.data + (t0 + t) * y.row_stride + row;
        for (int64_t r = 0; r < rows; ++r) {
          target[r] = out[static_cast<size_t>(t * quant::kPanelRows + r)] * w.scale;
        }
      }
    }
  }
}

}  // namespace

ActivationBuffer::ActivationBuffer(int64_t max_tokens, int64_t max_cols)
    : codes_(static_cast<size_t>(max_tokens * max_cols)),
      scales_(static_cast<size_t>(max_tokens * max_cols / kActivationBlock)),
      terms_(2 * scales_.size()) {}

ActivationView ActivationBuffer::view(quant::DType weights, int64_t n_tokens, int64_t cols) const {
  assert(takes_int8(weights) && n_tokens * cols <= static_cast<int64_t>(codes_.size()));
  return {.codes = codes_.data(),
          .scales = scales_.data(),
          .terms = terms_.data(),
          .n_tokens = n_tokens,
          .cols = cols,
          .group = panel_numerics(weights).group};
}

void ActivationBuffer::quantize_rows(const PanelKernels& kernels, quant::DType weights,
                                     MatrixView<const float> x, int64_t begin, int64_t end) {
  assert(takes_int8(weights) && x.rows * x.cols <= static_cast<int64_t>(codes_.size()));
  const PanelNumerics numerics = panel_numerics(weights);
  for (int64_t t = begin; t < end; ++t) {
    kernels.quantize(x.row(t).data(), x.cols, numerics, codes_.data() + t * x.cols,
                     scales_.data() + t * x.cols / kActivationBlock,
                     terms_.data() + t * x.cols / numerics.group);
  }
}

void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, const ActivationView& x, MatrixView<float> y) {
  assert(x.cols == w.layout.cols && x.n_tokens == y.rows && w.rows <= y.cols);
  const PanelKernels::DotFn dot = kernels.dot[static_cast<size_t>(w.layout.dtype)];
  assert(dot != nullptr);
  for_each_tile(w, panel_begin, panel_end, y,
                [&](const std::byte* panel, int64_t t0, int64_t tokens, float* out) {
                  dot(w.layout, panel, x.tokens_from(t0, tokens), out);
                });
}

void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, MatrixView<const float> x, MatrixView<float> y) {
  assert(x.cols == w.layout.cols && x.rows == y.rows && w.rows <= y.cols);
  const PanelKernels::FloatDotFn dot = kernels.float_dot[static_cast<size_t>(w.layout.dtype)];
  assert(dot != nullptr);
  for_each_tile(w, panel_begin, panel_end, y,
                [&](const std::byte* panel, int64_t t0, int64_t tokens, float* out) {
                  dot(w.layout, panel, x.row(t0).data(), x.row_stride, tokens, out);
                });
}

}  // namespace sluice::cpu
