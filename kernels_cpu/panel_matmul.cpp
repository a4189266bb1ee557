#include "kernels_cpu/panel_matmul.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <span>

namespace sluice::cpu {
namespace {

// Tokens that meet a panel at a time, and how many bytes of panels meet a tile before the next one comes: both
// stay in an L2 cache then, and what is read again from beyond is read rarely. Chosen.
constexpr int64_t kTokenTile = 64;
constexpr int64_t kGroupBytes = 512 << 10;

/// y [tokens, w.rows] gets the rows of panel p.
void put(std::span<const float> out, int64_t tokens, const quant::PanelView& w, int64_t p,
         MatrixView<float> y) {
  const int64_t row = p * quant::kPanelRows;
  const int64_t rows = std::min(quant::kPanelRows, w.rows - row);
  for (int64_t t = 0; t < tokens; ++t) {
    float* const target = y.row(t).data() + row;
    for (int64_t r = 0; r < rows; ++r) {
      target[r] = out[static_cast<size_t>(t * quant::kPanelRows + r)] * w.scale;
    }
  }
}

/// Calls product(panel, first token, tokens, out [tokens, 16]) for every panel and tile, and puts the results
/// into y.
template <class Product>
void for_each_tile(const quant::PanelView& w, int64_t panel_begin, int64_t panel_end, MatrixView<float> y,
                   const Product& product) {
  std::array<float, kTokenTile * quant::kPanelRows> out;
  const int64_t group = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, w.layout.panel_bytes));
  for (int64_t first = panel_begin; first < panel_end; first += group) {
    for (int64_t t0 = 0; t0 < y.rows; t0 += kTokenTile) {
      const int64_t tokens = std::min(kTokenTile, y.rows - t0);
      for (int64_t p = first; p < std::min(first + group, panel_end); ++p) {
        product(w.panel(p), t0, tokens, out.data());
        put(out, tokens, w, p, y.rows_from(t0, tokens));
      }
    }
  }
}

}  // namespace

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
