// What products of panels should be, and what they may be off by: those of kernels_cuda/gemv.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/compare.h"
#include "support/random_panels.h"

namespace sluice::testing {

/// All types that a matrix may have.
inline std::vector<quant::DType> weight_types() {
  std::vector<quant::DType> types;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (quant::can_dequantize(info.dtype)) types.push_back(info.dtype);
  }
  return types;
}

struct ExpectedProduct {
  std::vector<double> y;        // [rows]
  std::vector<double> allowed;  // the same
};

/// A random matrix, and its products with rows of x.
class PanelProducts {
 public:
  PanelProducts(quant::DType type, int64_t rows, int64_t cols, Random& random)
      : matrix_(type, rows, cols, random), parts_(matrix_.values) {
    const bool cancels = type == quant::DType::kQ4_K || type == quant::DType::kQ5_K;
    for (auto block = parts_.begin(); block != parts_.end(); block += cancels ? 32 : 1) {
      const float largest = *std::max_element(block, block + (cancels ? 32 : 1),
                                              [](float a, float b) { return std::abs(a) < std::abs(b); });
      std::fill(block, block + (cancels ? 32 : 1), std::abs(largest));
    }
  }

  [[nodiscard]] const RandomPanels& matrix() const { return matrix_; }

  /// scale * matrix . x in double, and what float32 sums of their length and bytes of x (gemv.h) may be off
  /// by.
  [[nodiscard]] ExpectedProduct with(const float* x, double scale) const {
    ExpectedProduct expected;
    // A sum of n parts in float32 has n roundings at most; slices and blocks make it far fewer in a row.
    const double roundings = std::sqrt(static_cast<double>(matrix_.cols)) + 16;
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      const Sum sum = row_sum(r, x);
      expected.y.push_back(sum.value * scale);
      expected.allowed.push_back(sum.parts * std::abs(scale) * roundings * kRounding + 1e-30);
    }
    return expected;
  }

 private:
  struct Sum {
    double value = 0;
    double parts = 0;
  };

  [[nodiscard]] Sum row_sum(int64_t r, const float* x) const {
    Sum sum;
    for (int64_t block = 0; block < matrix_.cols; block += 32) {
      const int64_t end = std::min(block + 32, matrix_.cols);
      double largest = 0;
      for (int64_t k = block; k < end; ++k) largest = std::max(largest, std::abs(double{x[k]}));
      for (int64_t k = block; k < end; ++k) {
        const auto at = static_cast<size_t>(r * matrix_.cols + k);
        sum.value += double{matrix_.values[at]} * double{x[k]};
        sum.parts += double{parts_[at]} * (std::abs(double{x[k]}) * 2 + largest * 0x1p-5);
      }
    }
    return sum;
  }

  RandomPanels matrix_;
  std::vector<float> parts_;  // magnitude of what each value is made from: Q4_K and Q5_K subtract a minimum
};

}  // namespace sluice::testing
