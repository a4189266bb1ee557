// A matrix of random blocks of any weight type, as panels and as the numbers they stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "quant/block_codec.h"
#include "quant/panel.h"
#include "support/random_tensors.h"

namespace sluice::testing {

struct RandomPanels {
  /// Blocks are random bytes that decode to numbers below 1e9: subnormal and zero scales, all codes.
  RandomPanels(quant::DType type, int64_t n_rows, int64_t n_cols, Random& random)
      : layout(quant::panel_layout(type, n_cols)), rows(n_rows), cols(n_cols) {
    const int64_t row_bytes = quant::row_bytes(type, cols);
    std::vector<std::byte> blocks = random.bytes(rows * row_bytes);
    values.resize(static_cast<size_t>(rows * cols));
    for (int64_t r = 0; r < rows; ++r) {
      const std::span row(blocks.data() + r * row_bytes, static_cast<size_t>(row_bytes));
      make_finite(type, row, random);
      quant::dequantize_row(
          type, row, std::span(values).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)));
    }
    const quant::PanelView shape{.layout = layout, .rows = rows};
    panels.resize(static_cast<size_t>(shape.bytes()));
    for (int64_t p = 0; p < shape.panels(); ++p) {
      const int64_t begin = p * quant::kPanelRows;
      quant::pack_panel(layout,
                        {type, blocks.data() + begin * row_bytes, std::min(quant::kPanelRows, rows - begin),
                         cols, row_bytes, 1.0F},
                        std::span(panels).subspan(static_cast<size_t>(p * layout.panel_bytes),
                                                  static_cast<size_t>(layout.panel_bytes)));
    }
  }

  static void make_finite(quant::DType type, std::span<std::byte> row, Random& random) {
    const auto block_bytes = static_cast<size_t>(quant::dtype_info(type).bytes_per_block);
    std::vector<float> decoded(static_cast<size_t>(quant::dtype_info(type).elements_per_block));
    for (size_t at = 0; at < row.size(); at += block_bytes) {
      const std::span<std::byte> block = row.subspan(at, block_bytes);
      for (;;) {
        quant::dequantize_row(type, block, decoded);
        if (std::ranges::all_of(decoded, [](float v) { return std::abs(v) < 1e9F; })) break;
        std::ranges::copy(random.bytes(static_cast<int64_t>(block_bytes)), block.begin());
      }
    }
  }

  quant::PanelLayout layout;
  int64_t rows;
  int64_t cols;
  std::vector<float> values;  // [rows, cols]
  std::vector<std::byte> panels;
};

}  // namespace sluice::testing
