// Rows of a cache that a kernel reads either in order or through an index list, and what is stored in them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scratch.h"

namespace sluice::cpu {

enum class RowFormat {
  kF32,
  kBF16,
  kFp8,   // latent rows (model specification 3.1): e4m3 codes of the latent, a float scale for each 128 of
          // them, then bf16 of the rest
  kInt8,  // index keys: int8 codes, then one float scale
};

/// Latent values that share a scale in a kFp8 row.
inline constexpr int64_t kFp8Group = 128;

/// Bytes of a row of `cols` values, of which the first `latent` are codes in kFp8: a multiple of kFp8Group.
int64_t row_bytes(RowFormat format, int64_t cols, int64_t latent);

/// Row r of the cache is cols elements at data + r * row_bytes.
struct CacheRows {
  RowFormat format = RowFormat::kF32;
  const std::byte* data = nullptr;
  int64_t cols = 0;
  int64_t row_bytes = 0;
  int64_t latent = 0;  // kFp8 only: values that are codes

  /// Of a row, without what pads it to row_bytes.
  [[nodiscard]] int64_t bytes() const { return cpu::row_bytes(format, cols, latent); }

  /// out[0..cols) = row r as float32.
  void read(const Kernels& kernels, int64_t r, float* out) const;
};

/// row[0..cols) as a row of `format`. kFp8: each scale is the power of two 2^ceil(log2(max(amax, 1e-4) /
/// 448)), rounded to nearest even. kInt8: scale = amax / 127, 0 for zeros; the row should have gone through
/// hadamard(). Values are finite.
void write_row(const Kernels& kernels, RowFormat format, std::span<const float> row, int64_t latent,
               std::byte* out);

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
