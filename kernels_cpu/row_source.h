// Rows of a cache (float32 or bf16) that a kernel reads either in order or through an index list.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"

namespace sluice::cpu {

/// Row r of the cache is cols elements of dtype at data + r * row_bytes.
struct CacheRows {
  quant::DType dtype = quant::DType::kF32;  // kF32 or kBF16
  const std::byte* data = nullptr;
  int64_t cols = 0;
  int64_t row_bytes = 0;

  /// out[0..cols) = row r as float32.
  void read(const Kernels& kernels, int64_t r, float* out) const {
    kernels.dequantize_row[static_cast<size_t>(dtype)](data + r * row_bytes, cols, out);
  }
};

/// Which rows a query attends to: `count` of them, the listed positions or 0..count-1 when the list is empty.
struct RowSelection {
  std::span<const int32_t> positions;
  int64_t count = 0;

  [[nodiscard]] int64_t operator[](int64_t i) const {
    assert(i >= 0 && i < count);
    return positions.empty() ? i : positions[static_cast<size_t>(i)];
  }
};

}  // namespace sluice::cpu
