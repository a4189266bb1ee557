#include "kernels_cpu/panel_matmul.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <span>

namespace sluice::cpu {
namespace {

// What is multiplied before anything else is touched: so many panels with so many tokens. Along the columns
// they go chunk by chunk, so that a chunk of the tokens' activations (256 KiB) stays in an L2 cache for all
// panels. Chosen.
constexpr int64_t kTokenTile = 256;
constexpr int64_t kPanelGroup = 16;
constexpr int64_t kChunkBlocks = 32;
constexpr int64_t kFewTokens = 8;  // no more than this meet a panel in one go

using Products = std::array<float, kPanelGroup * kTokenTile * quant::kPanelRows>;

/// y [tokens, w.rows] gets the rows of panel p.
void put(const float* out, const quant::PanelView& w, int64_t p, MatrixView<float> y) {
  const int64_t row = p * quant::kPanelRows;
  const int64_t rows = std::min(quant::kPanelRows, w.rows - row);
  for (int64_t t = 0; t < y.rows; ++t) {
    float* const target = y.row(t).data() + row;
    for (int64_t r = 0; r < rows; ++r) {
      target[r] = out[t * quant::kPanelRows + r] * w.scale;
    }
  }
}

/// Calls product(first panel, panels, first token, tokens, out [panels][tokens, 16]) for every group and
/// tile, and puts the results into y.
template <class Product>
void for_each_tile(const quant::PanelView& w, int64_t panel_begin, int64_t panel_end, MatrixView<float> y,
                   const Product& product) {
  Products out;
  for (int64_t first = panel_begin; first < panel_end; first += kPanelGroup) {
    const int64_t panels = std::min(kPanelGroup, panel_end - first);
    for (int64_t t0 = 0; t0 < y.rows; t0 += kTokenTile) {
      const int64_t tokens = std::min(kTokenTile, y.rows - t0);
      product(first, panels, t0, tokens, out.data());
      for (int64_t p = 0; p < panels; ++p) {
        put(out.data() + p * tokens * quant::kPanelRows, w, first + p, y.rows_from(t0, tokens));
      }
    }
  }
}

/// The products of tokens [t0, t0 + tokens) by matrix instructions.
void tile_products(const PanelTiles& tiles, std::span<const PanelOperand> panels, const ActivationView& x,
                   int64_t t0, int64_t tokens) {
  alignas(64) std::array<uint16_t, PanelTiles::packed_size(PanelTiles::kMostBlocks, PanelTiles::kMostTokens)>
      packed;
  const int64_t blocks = x.cols / kActivationBlock;
  tiles.begin();
  for (int64_t b = 0; b < blocks; b += PanelTiles::kMostBlocks) {
    const BlockRange range{b, std::min(b + PanelTiles::kMostBlocks, blocks)};
    tiles.pack(range, x.tokens_from(t0, tokens), packed.data());
    for (const PanelOperand& panel : panels) {
      tiles.dot[static_cast<size_t>(panel.layout->dtype)](*panel.layout, panel.panel, range, packed.data(),
                                                          tokens, panel.out + t0 * quant::kPanelRows);
    }
  }
  tiles.end();
}

}  // namespace

void panel_products(const PanelKernels& kernels, std::span<const PanelOperand> panels,
                    const ActivationView& x) {
  if (kernels.tiles.pack != nullptr && x.n_tokens >= kernels.tiles.least_tokens) {
    for (int64_t t = 0; t < x.n_tokens; t += PanelTiles::kMostTokens) {
      tile_products(kernels.tiles, panels, x, t, std::min(PanelTiles::kMostTokens, x.n_tokens - t));
    }
    return;
  }
  const int64_t blocks = x.cols / kActivationBlock;
  const int64_t step = x.n_tokens <= kFewTokens ? std::max<int64_t>(blocks, 1) : kChunkBlocks;
  for (int64_t b = 0; b == 0 || b < blocks; b += step) {
    for (const PanelOperand& panel : panels) {
      assert(panel.layout->cols == x.cols);
      kernels.dot[static_cast<size_t>(panel.layout->dtype)](*panel.layout, panel.panel,
                                                            {b, std::min(b + step, blocks)}, x, panel.out);
    }
  }
}

void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, const ActivationView& x, MatrixView<float> y) {
  assert(x.cols == w.layout.cols && x.n_tokens == y.rows && w.rows <= y.cols);
  assert(takes_int8(w.layout.dtype));
  for_each_tile(w, panel_begin, panel_end, y,
                [&](int64_t first, int64_t panels, int64_t t0, int64_t tokens, float* out) {
                  std::array<PanelOperand, kPanelGroup> operands;
                  for (int64_t p = 0; p < panels; ++p) {
                    operands[static_cast<size_t>(p)] = {&w.layout, w.panel(first + p),
                                                        out + p * tokens * quant::kPanelRows};
                  }
                  panel_products(kernels, std::span(operands).first(static_cast<size_t>(panels)),
                                 x.tokens_from(t0, tokens));
                });
}

void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, MatrixView<const float> x, MatrixView<float> y) {
  assert(x.cols == w.layout.cols && x.rows == y.rows && w.rows <= y.cols);
  const PanelKernels::FloatDotFn dot = kernels.float_dot[static_cast<size_t>(w.layout.dtype)];
  assert(dot != nullptr);
  for_each_tile(w, panel_begin, panel_end, y,
                [&](int64_t first, int64_t panels, int64_t t0, int64_t tokens, float* out) {
                  for (int64_t p = 0; p < panels; ++p) {
                    dot(w.layout, w.panel(first + p), x.row(t0).data(), x.row_stride, tokens,
                        out + p * tokens * quant::kPanelRows);
                  }
                });
}

}  // namespace sluice::cpu
