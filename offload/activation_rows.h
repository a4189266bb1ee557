// Rows of activations in the form that the weights want: int8 with scales and terms, or float32 as they are.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "kernels_cpu/panel.h"
#include "offload/aligned_vector.h"
#include "quant/base/view.h"

namespace sluice::offload {

/// What a product reads. One of the two, as the weights' type says.
struct Activations {
  cpu::ActivationView codes;
  MatrixView<const float> values;
};

/// Memory for int8 rows, as many and as wide as set_shape() said last (layout: cpu::ActivationView).
class Int8Rows {
 public:
  /// Room for rows * cols elements; nothing for 0.
  explicit Int8Rows(int64_t elements)
      : codes_(static_cast<size_t>(elements)),
        scales_(static_cast<size_t>(elements / cpu::kActivationBlock)),
        terms_(static_cast<size_t>(elements / kSmallestGroup)) {}

  /// `rows` rows of `cols`, a multiple of 32, for weights of these numerics. What was there is lost.
  void set_shape(int64_t rows, int64_t cols, cpu::PanelNumerics numerics) {
    assert(cols % cpu::kActivationBlock == 0 && rows * cols <= static_cast<int64_t>(codes_.size()));
    rows_ = rows;
    cols_ = cols;
    numerics_ = numerics;
  }

  /// Columns [col, col + n) of row r; both multiples of 32.
  void quantize(const cpu::PanelKernels& kernels, int64_t r, int64_t col, int64_t n, const float* x) {
    kernels.quantize(x, n, numerics_,
                     {.codes = codes_.data() + r * cols_ + col,
                      .scales = scales_.data() + col / cpu::kActivationBlock * rows_ + r,
                      .terms = terms_.data() + col / numerics_.group * rows_ + r,
                      .stride = rows_});
  }

  [[nodiscard]] cpu::ActivationView rows(int64_t first, int64_t count) const {
    assert(first + count <= rows_);
    return {.codes = codes_.data() + first * cols_,
            .scales = scales_.data() + first,
            .terms = terms_.data() + first,
            .n_tokens = count,
            .cols = cols_,
            .stride = rows_};
  }

  /// Row `to` becomes row `from` of `other`, which has this one's width and numerics.
  void copy_row(const Int8Rows& other, int64_t from, int64_t to) {
    const cpu::ActivationView row = other.rows(from, 1);
    std::copy_n(row.codes, cols_, codes_.data() + to * cols_);
    for (int64_t b = 0; b < cols_ / cpu::kActivationBlock; ++b) {
      scales_[static_cast<size_t>(b * rows_ + to)] = row.scales[b * row.stride];
    }
    for (int64_t g = 0; g < cols_ / numerics_.group; ++g) {
      terms_[static_cast<size_t>(g * rows_ + to)] = row.terms[g * row.stride];
    }
  }

  [[nodiscard]] cpu::PanelNumerics numerics() const { return numerics_; }

 private:
  static constexpr int64_t kSmallestGroup = 16;  // of any type's numerics

  AlignedVector<int8_t> codes_;
  AlignedVector<float> scales_;
  AlignedVector<int32_t> terms_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  cpu::PanelNumerics numerics_;
};

}  // namespace sluice::offload
