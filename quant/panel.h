// Panels: sixteen rows of a weight matrix re-laid so that every lane of a vector register holds one row. The
// bytes are those of the GGUF blocks, permuted: nothing is rounded, and unpack_panel gives the blocks back.
// docs/formats.md draws the layout and says how CPU and GPU kernels read it.
//
// A block of a row consists of fields, and a field of words (4 bytes of quants, or one scale). A panel holds,
// block after block along the columns, each word of the sixteen rows side by side:
//
//   quants   [blocks][words of 4 bytes][16 rows]          64 bytes a word, from byte 0 of the panel
//   scales   [blocks][words of 1, 2 or 4 bytes][16 rows]  from byte scales_at, a multiple of 64
//
// Rows beyond the matrix's last are zero bytes, as are columns beyond a row's last in a block of BF16.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/dtype.h"
#include "quant/panel_layout.h"
#include "quant/tensor.h"

namespace sluice::quant {

/// `cols` must be a multiple of the type's block; the type one that can_dequantize (block_codec.h).
PanelLayout panel_layout(DType dtype, int64_t cols);

/// A matrix as panels, one after the other: panel p holds rows [16 p, 16 p + 16). Non-owning, trivially
/// copyable.
struct PanelView {
  PanelLayout layout;
  const std::byte* data = nullptr;  // kPanelAlignment-aligned
  int64_t rows = 0;
  float scale = 1.0F;  // second-level NVFP4 scale: multiplies the product

  [[nodiscard]] int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  [[nodiscard]] int64_t bytes() const { return panels() * layout.panel_bytes; }
  [[nodiscard]] const std::byte* panel(int64_t p) const {
    assert(p >= 0 && p < panels());
    return data + p * layout.panel_bytes;
  }
  /// Panels [begin, begin + count).
  [[nodiscard]] PanelView panels_from(int64_t begin, int64_t count) const;
};

/// Packs `rows`, at most sixteen, into one panel. rows.dtype and cols must be the layout's. Writes every
/// byte.
void pack_panel(const PanelLayout& layout, const WeightView& rows, std::span<std::byte> panel);

/// The inverse: the first `count` rows of a panel as GGUF blocks, row_bytes(dtype, cols) each, one after the
/// other.
void unpack_panel(const PanelLayout& layout, std::span<const std::byte> panel, int64_t count,
                  std::span<std::byte> rows);

}  // namespace sluice::quant
