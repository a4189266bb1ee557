// Matrices of panels: every row and token where it belongs, whatever the range, against the rows' own
// product.
#include "kernels_cpu/panel_matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels_cpu/matmul.h"
#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice::cpu {
namespace {

using quant::DType;
using quant::kPanelRows;

constexpr float kUntouched = 12345.0F;

struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t cols, testing::Random& random)
      : blocks(static_cast<size_t>(quant::row_bytes(dtype, rows * cols))),
        view{dtype, blocks.data(), rows, cols, quant::row_bytes(dtype, cols), 0.5F} {
    quant::quantize_row(dtype, random.normal(rows * cols), blocks);
    panels = {.layout = quant::panel_layout(dtype, cols), .data = nullptr, .rows = rows, .scale = view.scale};
    bytes.resize(static_cast<size_t>(panels.bytes()));
    panels.data = bytes.data();
    for (int64_t p = 0; p < panels.panels(); ++p) {
      const int64_t row = p * kPanelRows;
      quant::pack_panel(panels.layout, view.rows_from(row, std::min(kPanelRows, rows - row)),
                        std::span(bytes).subspan(static_cast<size_t>(p * panels.layout.panel_bytes),
                                                 static_cast<size_t>(panels.layout.panel_bytes)));
    }
  }
  std::vector<std::byte> blocks;
  quant::WeightView view;
  std::vector<std::byte> bytes;
  quant::PanelView panels;
};

class PanelMatmul : public ::testing::Test {
 protected:
  /// The same product by decoded rows, columns outside the panels' left alone.
  std::vector<float> expected(const Matrix& w, int64_t panel_begin, int64_t panel_end,
                              MatrixView<const float> x) {
    std::vector<float> y(static_cast<size_t>(x.rows * w.view.rows), kUntouched);
    std::vector<float> scratch(static_cast<size_t>(matmul_scratch_floats(w.view.cols)));
    matmul_rows(kernels_for(isa_), w.view, panel_begin * kPanelRows,
                std::min(panel_end * kPanelRows, w.view.rows), x, {y.data(), x.rows, w.view.rows}, scratch);
    return y;
  }

  Isa isa_ = chosen_isa();
  const PanelKernels& kernels_ = panel_kernels_for(isa_);
  testing::Random random_;
};

TEST_F(PanelMatmul, FloatWeights) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t tokens : {1, 7, 300}) {
    const Matrix w(DType::kBF16, random_.integer(1, 90), random_.integer(1, 70), random_);
    const std::vector<float> x = random_.normal(tokens * w.view.cols);
    const MatrixView<const float> rows(x.data(), tokens, w.view.cols);
    const int64_t begin = random_.integer(0, w.panels.panels() - 1);
    const int64_t end = random_.integer(begin + 1, w.panels.panels());
    std::vector<float> y(static_cast<size_t>(tokens * w.view.rows), kUntouched);
    panel_matmul(kernels_, w.panels, begin, end, rows, {y.data(), tokens, w.view.rows});
    EXPECT_TRUE(testing::close(y, std::span<const float>(expected(w, begin, end, rows)), 1e-4, 1e-4));
  }
}

TEST_F(PanelMatmul, Int8Activations) {
  SCOPED_TRACE(random_.describe());
  const PanelNumerics numerics = panel_numerics(DType::kQ8_0);
  for (const int64_t tokens : {1, 7, 300}) {
    const Matrix w(DType::kQ8_0, random_.integer(1, 90), 32 * random_.integer(1, 5), random_);
    const int64_t cols = w.view.cols;
    const std::vector<float> x = random_.normal(tokens * cols);
    std::vector<int8_t> codes(x.size());
    std::vector<float> scales(x.size() / 32);
    std::vector<int32_t> terms(scales.size());
    std::vector<float> rounded(x.size());  // what the int8 activations stand for
    for (int64_t t = 0; t < tokens; ++t) {
      kernels_.quantize(x.data() + t * cols, cols, numerics,
                        {codes.data() + t * cols, scales.data() + t, terms.data() + t, tokens});
      for (int64_t k = 0; k < cols; ++k) {
        rounded[static_cast<size_t>(t * cols + k)] =
            static_cast<float>(codes[static_cast<size_t>(t * cols + k)]) *
            scales[static_cast<size_t>(k / 32 * tokens + t)];
      }
    }
    const int64_t begin = random_.integer(0, w.panels.panels() - 1);
    const int64_t end = random_.integer(begin + 1, w.panels.panels());
    std::vector<float> y(static_cast<size_t>(tokens * w.view.rows), kUntouched);
    panel_matmul(kernels_, w.panels, begin, end,
                 {codes.data(), scales.data(), terms.data(), tokens, cols, tokens},
                 {y.data(), tokens, w.view.rows});
    const MatrixView<const float> rows(rounded.data(), tokens, cols);
    // Tiles round both factors to bf16.
    const bool tiles = kernels_.tiles.pack != nullptr && tokens >= kernels_.tiles.least_tokens;
    const double allowed = tiles ? 0.1 : 1e-4;
    EXPECT_TRUE(testing::close(y, std::span<const float>(expected(w, begin, end, rows)), allowed, allowed));
  }
}

}  // namespace
}  // namespace sluice::cpu
