// Panels give back the bytes they were made of, and lie as quant/panel.h draws them.
#include "quant/panel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "quant/block_codec.h"
#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

std::vector<DType> weight_types() {
  std::vector<DType> types;
  for (const DTypeInfo& info : all_dtypes()) {
    if (can_dequantize(info.dtype)) types.push_back(info.dtype);
  }
  return types;
}

/// Random bytes as a matrix: packing must not look at what they mean.
struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t cols, testing::Random& random)
      : bytes(random.bytes(rows * row_bytes(dtype, cols))), view{dtype, bytes.data(),           rows,
                                                                 cols,  row_bytes(dtype, cols), 1.0F} {}
  std::vector<std::byte> bytes;
  WeightView view;
};

std::vector<std::byte> packed(const PanelLayout& layout, const WeightView& rows) {
  std::vector<std::byte> panel(static_cast<size_t>(layout.panel_bytes), std::byte{0xAA});  // poisoned
  pack_panel(layout, rows, panel);
  return panel;
}

TEST(Panel, UnpackingGivesTheBytesBack) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const DType dtype : weight_types()) {
    const int64_t block = dtype_info(dtype).elements_per_block;
    for (int trial = 0; trial < 20; ++trial) {
      const int64_t rows = random.integer(1, kPanelRows);
      const int64_t cols = block * random.integer(1, block == 1 ? 70 : 5);
      const Matrix matrix(dtype, rows, cols, random);
      const PanelLayout layout = panel_layout(dtype, cols);
      const std::vector<std::byte> panel = packed(layout, matrix.view);
      std::vector<std::byte> back(matrix.bytes.size(), std::byte{0x55});
      unpack_panel(layout, panel, rows, back);
      ASSERT_EQ(back, matrix.bytes) << dtype_info(dtype).name << ' ' << rows << " x " << cols;
    }
  }
}

TEST(Panel, PackingIsAPermutationPaddedWithZeros) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const DType dtype : weight_types()) {
    const int64_t cols = std::max<int64_t>(dtype_info(dtype).elements_per_block, 3) * 3;
    const int64_t rows = random.integer(1, kPanelRows);
    const Matrix matrix(dtype, rows, cols, random);
    std::vector<std::byte> expected = matrix.bytes;
    std::vector<std::byte> panel = packed(panel_layout(dtype, cols), matrix.view);
    ASSERT_GE(panel.size(), expected.size());
    expected.resize(panel.size());
    std::ranges::sort(expected);
    std::ranges::sort(panel);
    EXPECT_EQ(panel, expected) << dtype_info(dtype).name;
  }
}

TEST(Panel, SizesAreWhatTheFileHoldsUpToAlignment) {
  for (const DType dtype : weight_types()) {
    const PanelLayout layout = panel_layout(dtype, 7168);
    EXPECT_EQ(layout.panel_bytes, kPanelRows * row_bytes(dtype, 7168)) << dtype_info(dtype).name;
    EXPECT_EQ(layout.scales_at % kPanelAlignment, 0);
    EXPECT_EQ(layout.panel_bytes % kPanelAlignment, 0);
  }
}

// The drawing in quant/panel.h by hand: Q8_0, two blocks, the words of sixteen rows side by side.
TEST(Panel, WordsOfSixteenRowsLieSideBySide) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const Matrix matrix(DType::kQ8_0, kPanelRows, 64, random);
  const PanelLayout layout = panel_layout(DType::kQ8_0, 64);
  const std::vector<std::byte> panel = packed(layout, matrix.view);
  EXPECT_EQ(layout.scales_at, 2 * 8 * 64);
  for (size_t block = 0; block < 2; ++block) {
    for (size_t row = 0; row < 16; ++row) {
      const std::byte* source = matrix.bytes.data() + row * 68 + block * 34;
      for (size_t word = 0; word < 8; ++word) {
        EXPECT_EQ(std::memcmp(panel.data() + ((block * 8 + word) * 16 + row) * 4, source + 2 + 4 * word, 4),
                  0);
      }
      EXPECT_EQ(std::memcmp(panel.data() + layout.scales_at + static_cast<int64_t>((block * 16 + row) * 2),
                            source, 2),
                0);
    }
  }
}

TEST(PanelView, CountsPanelsAndCutsRanges) {
  const PanelLayout layout = panel_layout(DType::kNVFP4, 128);
  std::vector<std::byte> bytes(static_cast<size_t>(3 * layout.panel_bytes));
  const PanelView view{.layout = layout, .data = bytes.data(), .rows = 40, .scale = 2.0F};
  EXPECT_EQ(view.panels(), 3);
  EXPECT_EQ(view.bytes(), 3 * layout.panel_bytes);
  const PanelView last = view.panels_from(1, 2);
  EXPECT_EQ(last.data, bytes.data() + layout.panel_bytes);
  EXPECT_EQ(last.rows, 24);
  EXPECT_EQ(last.scale, 2.0F);
}

}  // namespace
}  // namespace sluice::quant
