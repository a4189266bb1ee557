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

/// Memory for int8 rows. Rows lie without gaps, at the width that set_shape() gave last.
class Int8Rows {
 public:
  /// Room for rows * cols elements; nothing for 0.
  explicit Int8Rows(int64_t elements)
      : codes_(static_cast<size_t>(elements)),
        scales_(static_cast<size_t>(elements / cpu::kActivationBlock)),
        terms_(static_cast<size_t>(elements / kSmallestGroup)) {}

  /// Rows of `cols`, a multiple of 32, for weights of these numerics.
  void set_shape(int64_t cols, cpu::PanelNumerics numerics) {
    assert(cols % cpu::kActivationBlock == 0);
    cols_ = cols;
    numerics_ = numerics;
  }

  /// Columns [col, col + n) of row r; both multiples of 32.
  void quantize(const cpu::PanelKernels& kernels, int64_t r, int64_t col, int64_t n, const float* x) {
    const int64_t at = r * cols_ + col;
    kernels.quantize(x, n, numerics_, codes_.data() + at, scales_.data() + at / cpu::kActivationBlock,
                     terms_.data() + at / numerics_.group);
  }

  [[nodiscard]] cpu::ActivationView rows(int64_t first, int64_t count) const {
    const int64_t at = first * cols_;
    return {.codes = codes_.data() + at,
            .scales = scales_.data() + at / cpu::kActivationBlock,
            .terms = terms_.data() + at / numerics_.group,
            .n_tokens = count,
            .cols = cols_,
            .group = numerics_.group};
  }

  /// Row `to` becomes row `from` of `other`, which has this one's shape.
  void copy_row(const Int8Rows& other, int64_t from, int64_t to) {
    const cpu::ActivationView row = other.rows(from, 1);
    const int64_t at = to * cols_;
    std::copy_n(row.codes, cols_, codes_.data() + at);
    std::copy_n(row.scales, cols_ / cpu::kActivationBlock, scales_.data() + at / cpu::kActivationBlock);
    std::copy_n(row.terms, cols_ / numerics_.group, terms_.data() + at / numerics_.group);
  }

  [[nodiscard]] cpu::PanelNumerics numerics() const { return numerics_; }

 private:
  static constexpr int64_t kSmallestGroup = 16;  // of any type's numerics

  AlignedVector<int8_t> codes_;
  AlignedVector<float> scales_;
  AlignedVector<int32_t> terms_;
  int64_t cols_ = 0;
  cpu::PanelNumerics numerics_;
};

}  // namespace sluice::offload
