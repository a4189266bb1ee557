// Quantized weights times activations: every type against double precision over the decoded weights.
#include "kernels_cpu/matmul.h"

#include <algorithm>
#include <cmath>

#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

using quant::DType;
using quant::WeightView;

struct Weights {
  std::vector<std::byte> bytes;
  std::vector<float> decoded;  // [rows, cols]
  WeightView view;
};

/// Random finite weights of any type: bytes whose scales decode to NaN or infinity are drawn again.
Weights make_weights(Random& random, DType dtype, int64_t rows, int64_t cols, float scale) {
  Weights w;
  w.decoded.resize(static_cast<size_t>(rows * cols));
  if (quant::can_quantize(dtype)) {
    w.bytes.resize(static_cast<size_t>(quant::row_bytes(dtype, rows * cols)));
    quant::quantize_row(dtype, random.normal(rows * cols), w.bytes);
  } else {
    const auto& info = quant::dtype_info(dtype);
    for (int64_t block = 0; block < rows * cols / info.elements_per_block; ++block) {
      std::vector<std::byte> bytes = random.bytes(info.bytes_per_block);
      bytes[1] = static_cast<std::byte>(random.integer(0x20, 0x3C));  // the scales' exponents: near one
      bytes[3] = dtype == DType::kQ5_K ? bytes[1] : bytes[3];
      w.bytes.insert(w.bytes.end(), bytes.begin(), bytes.end());
    }
  }
  quant::dequantize_row(dtype, w.bytes, w.decoded);
  w.view = {dtype, w.bytes.data(), rows, cols, quant::row_bytes(dtype, cols), scale};
  return w;
}

class Matmul : public EveryIsa {
 protected:
  std::vector<float> multiply(const WeightView& w, int64_t begin, int64_t end, MatrixView<const float> x) {
    std::vector<float> y(static_cast<size_t>(x.rows * w.rows), kUntouched);
    std::vector<float> scratch(static_cast<size_t>(cpu::matmul_scratch_floats(w.cols)));
    cpu::matmul_rows(kernels_, w, begin, end, x, {y.data(), x.rows, w.rows}, scratch);
    return y;
  }

  void check(DType dtype, int64_t rows, int64_t cols, int64_t tokens, float scale) {
    SCOPED_TRACE(::testing::Message() << quant::dtype_info(dtype).name << " " << rows << "x" << cols << ", "
                                      << tokens << " tokens, scale " << scale);
    const Weights w = make_weights(random_, dtype, rows, cols, scale);
    const std::vector<float> x = random_.normal(tokens * cols);
    const std::vector<float> y = multiply(w.view, 0, rows, {x.data(), tokens, cols});
    std::vector<double> expected;
    std::vector<double> allowed;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0.0;
        double magnitude = 0.0;
        for (int64_t k = 0; k < cols; ++k) {
          const double product = static_cast<double>(x[static_cast<size_t>(t * cols + k)]) *
                                 static_cast<double>(w.decoded[static_cast<size_t>(r * cols + k)]);
          sum += product;
          magnitude += std::abs(product);
        }
        const auto factor = static_cast<double>(scale);
        expected.push_back(factor * sum);
        allowed.push_back(static_cast<double>(cols + 3) * kRounding * magnitude * std::abs(factor));
      }
    }
    EXPECT_TRUE(within(y, expected, allowed));
  }

  static constexpr float kUntouched = -4242.0F;
};

TEST_P(Matmul, EveryType) {
  SCOPED_TRACE(random_.describe());
  for (const auto& info : quant::all_dtypes()) {
    if (!quant::can_dequantize(info.dtype)) {
      continue;
    }
    const int64_t block = info.elements_per_block;
    check(info.dtype, 1, block, 1, 1.0F);
    check(info.dtype, 7, 3 * block, 5, 0.125F);
    check(info.dtype, 67, 512, 3, 1.0F);  // more rows than one tile holds
    check(info.dtype, 13, 1536, 17, -2.5F);
    check(info.dtype, 9, 7168, 2, 1.0F);
  }
}

TEST_P(Matmul, FloatsOfAnyWidthAndAlignment) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t cols : {1, 3, 17, 130}) {
    check(DType::kF32, 10, cols, 3, 1.0F);
    check(DType::kF32, 10, cols, 40, 1.0F);
    const Weights w = make_weights(random_, DType::kF32, 6, cols, 1.0F);
    const std::vector<float> x = random_.normal(2 * cols);
    std::vector<std::byte> shifted(w.bytes.size() + 1);
    std::ranges::copy(w.bytes, shifted.begin() + 1);
    WeightView odd = w.view;
    odd.data = shifted.data() + 1;
    EXPECT_TRUE(
        identical(multiply(odd, 0, 6, {x.data(), 2, cols}), multiply(w.view, 0, 6, {x.data(), 2, cols})));
  }
}

TEST_P(Matmul, OnlyTheAskedRowsAreWrittenAndTheyDoNotDependOnTheSplit) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kF32, DType::kQ8_0, DType::kNVFP4}) {
    const int64_t rows = 150;
    const int64_t cols = 576;
    const Weights w = make_weights(random_, dtype, rows, cols, 0.75F);
    const std::vector<float> x = random_.normal(20 * cols);
    const std::vector<float> whole = multiply(w.view, 0, rows, {x.data(), 20, cols});
    for (int trial = 0; trial < 20; ++trial) {
      const int64_t begin = random_.integer(0, rows);
      const int64_t end = random_.integer(begin, rows);
      const int64_t first = random_.integer(0, 19);
      const int64_t tokens = random_.integer(1, 20 - first);
      const std::vector<float> part = multiply(w.view, begin, end, {x.data() + first * cols, tokens, cols});
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          const bool asked = r >= begin && r < end;
          const float expected = asked ? whole[static_cast<size_t>((first + t) * rows + r)] : kUntouched;
          ASSERT_EQ(part[static_cast<size_t>(t * rows + r)], expected)
              << "token " << first + t << " row " << r;
        }
      }
    }
  }
}

TEST_P(Matmul, StridedActivations) {
  SCOPED_TRACE(random_.describe());
  const Weights w = make_weights(random_, DType::kQ4_K, 12, 512, 1.0F);
  const std::vector<float> wide = random_.normal(int64_t{4} * 700);
  const MatrixView<const float> x(wide.data() + 100, 4, 512, 700);
  std::vector<float> packed;
  for (int64_t t = 0; t < 4; ++t) {
    packed.insert(packed.end(), x.row(t).begin(), x.row(t).end());
  }
  EXPECT_TRUE(identical(multiply(w.view, 0, 12, x), multiply(w.view, 0, 12, {packed.data(), 4, 512})));
}

INSTANTIATE_TEST_SUITE_P(Isa, Matmul, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
