// Rows of a cache (float32 or bf16) that a kernel reads either in order or through an index list.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scratch.h"

namespace sluice::cpu {

/// Row r of the cache is cols elements of dtype at data + r * row_bytes.
struct CacheRows {
  quant::DType dtype = quant::DType::kF32;  // kF32 or kBF16
  const std::byte* data = nullptr;
  int64_t cols = 0;
  int64_t row_bytes = 0;

  /// Of a row, without what pads it to row_bytes.
  [[nodiscard]] int64_t bytes() const { return quant::row_bytes(dtype, cols); }

  /// out[0..cols) = row r as float32.
  void read(const Kernels& kernels, int64_t r, float* out) const {
    kernels.dequantize_row[static_cast<size_t>(dtype)](data + r * row_bytes, cols, out);
  }
};

/// Rows that will be read soon, asked for a few at a time between pieces of work: all at once they would fill
/// the CPU's list of outstanding misses, and the work would wait for them.
template <class RowAt>
class RowPrefetch {
 public:
  /// Rows row_at(begin..end); begin may reach end.
  RowPrefetch(const CacheRows& rows, const RowAt& row_at, int64_t begin, int64_t end)
      : rows_(rows), row_at_(row_at), next_(begin), end_(end) {}

  void ask_for(int64_t count) {
    for (const int64_t until = std::min(next_ + count, end_); next_ < until; ++next_) {
      const std::byte* row = rows_.data + row_at_(next_) * rows_.row_bytes;
      for (int64_t at = 0; at < rows_.bytes(); at += kCacheLineBytes) {
        __builtin_prefetch(row + at, 0, 2);  // into L2: what is at work fills L1
      }
    }
  }

 private:
  const CacheRows& rows_;
  RowAt row_at_;
  int64_t next_;
  int64_t end_;
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
