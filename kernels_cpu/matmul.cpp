// Decode a tile of weight rows, multiply it with all tokens.
#include "kernels_cpu/matmul.h"

#include <algorithm>
#include <cassert>

#include "kernels_cpu/scratch.h"

namespace sluice::cpu {
namespace {

// A decoded tile of 256 KiB leaves most of a 1 MiB L2 cache to the activations; a tile of fewer than four
// rows would leave gemm_nt's tiles half empty. Chosen; results do not depend on it.
constexpr int64_t kTileFloats = 65536;
constexpr int64_t kLeastTileRows = 4;
constexpr int64_t kMostTileRows = 64;

// Rows of 7168 floats, 28 KiB, would all start in the same set of an L1 cache; a line between them spreads
// the rows.
constexpr int64_t tile_stride(int64_t cols) {
  return whole_lines(cols) + kScratchSlack;
}

// From this many tokens on, float weights are worth a copy into such a tile as well (measured).
constexpr int64_t kCopyTokens = 16;

int64_t tile_rows(int64_t cols) {
  const int64_t rows = kTileFloats / std::max<int64_t>(cols, 1);
  return std::clamp(rows / kLeastTileRows * kLeastTileRows, kLeastTileRows, kMostTileRows);
}

/// The rows themselves when they are floats that need no decoding.
const float* as_floats(const quant::WeightView& w) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(w.data) % alignof(float) == 0 && w.row_bytes % int64_t{sizeof(float)} == 0;
  return w.dtype == quant::DType::kF32 && aligned ? reinterpret_cast<const float*>(w.data) : nullptr;
}

}  // namespace

int64_t matmul_scratch_floats(int64_t cols) {
  // The tile of a narrower matrix can be the larger one (rows are rounded down), so this bounds them all.
  const int64_t most_values = std::max(kTileFloats, kLeastTileRows * cols);
  const int64_t most_padding = kMostTileRows * tile_stride(1);
  return most_values + most_padding + kScratchSlack;
}

void matmul_rows(const Kernels& kernels, const quant::WeightView& w, int64_t row_begin, int64_t row_end,
                 MatrixView<const float> x, MatrixView<float> y, std::span<float> scratch) {
  assert(0 <= row_begin && row_begin <= row_end && row_end <= w.rows && row_end <= y.cols);
  assert(x.cols == w.cols && x.rows == y.rows);
  assert(static_cast<int64_t>(scratch.size()) >= matmul_scratch_floats(w.cols));
  const DequantizeRowFn decode = kernels.dequantize_row[static_cast<size_t>(w.dtype)];
  assert(decode != nullptr);
  const float* floats = x.rows < kCopyTokens ? as_floats(w) : nullptr;
  const int64_t stride =
      floats != nullptr ? w.row_bytes / static_cast<int64_t>(sizeof(float)) : tile_stride(w.cols);
  float* decoded = aligned_scratch(scratch);
  for (int64_t row = row_begin; row < row_end; row += tile_rows(w.cols)) {
    const int64_t rows = std::min(tile_rows(w.cols), row_end - row);
    for (int64_t r = 0; floats == nullptr && r < rows; ++r) {
      decode(w.row(row + r), w.cols, decoded + r * stride);
    }
    kernels.gemm_nt({.a = x.data,
                     .lda = x.row_stride,
                     .b = floats != nullptr ? floats + row * stride : decoded,
                     .ldb = stride,
                     .c = y.data + row,
                     .ldc = y.row_stride,
                     .m = x.rows,
                     .n = rows,
                     .k = w.cols});
    for (int64_t t = 0; w.scale != 1.0F && t < y.rows; ++t) {
      kernels.scale(w.scale, rows, y.data + t * y.row_stride + row);
    }
  }
}

}  // namespace sluice::cpu
