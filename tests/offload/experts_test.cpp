// One MoE layer against plain loops in double precision over the decoded weights.
#include "offload/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels_cpu/kernels_cpu.h"
#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

using quant::DType;

struct Matrix {
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [experts, rows, cols]
  std::vector<float> scales;  // [experts]
  ExpertMatrix view;
};

struct Shape {
  int64_t experts, used, d_model, d_expert;
};

class ExpertsTest : public ::testing::Test {
 protected:
  Matrix make(DType dtype, int64_t experts, int64_t rows, int64_t cols, bool scaled) {
    Matrix m;
    m.bytes.resize(static_cast<size_t>(quant::row_bytes(dtype, experts * rows * cols)));
    m.values.resize(static_cast<size_t>(experts * rows * cols));
    quant::quantize_row(dtype, random_.normal(experts * rows * cols), m.bytes);
    quant::dequantize_row(dtype, m.bytes, m.values);
    for (int64_t e = 0; scaled && e < experts; ++e) m.scales.push_back(random_.uniform(0.5F, 2.0F));
    m.view = {{dtype, m.bytes.data(), experts * rows, cols, quant::row_bytes(dtype, cols), 1.0F},
              rows,
              0,
              rows,
              m.scales};
    return m;
  }

  // A choice of distinct experts per token, ascending.
  void choose(const Shape& shape, int64_t tokens) {
    ids_.clear();
    std::vector<int32_t> all(static_cast<size_t>(shape.experts));
    for (int64_t t = 0; t < tokens; ++t) {
      std::iota(all.begin(), all.end(), 0);
      for (int64_t i = 0; i < shape.used; ++i) {
        std::swap(all[static_cast<size_t>(i)],
                  all[static_cast<size_t>(random_.integer(i, shape.experts - 1))]);
      }
      std::sort(all.begin(), all.begin() + shape.used);
      ids_.insert(ids_.end(), all.begin(), all.begin() + shape.used);
    }
    weights_ = random_.normal(tokens * shape.used);
  }

  [[nodiscard]] Routes routes(const Shape& shape, int64_t tokens) const {
    return {{ids_.data(), tokens, shape.used}, {weights_.data(), tokens, shape.used}};
  }

  static double row_product(const Matrix& m, int64_t expert, int64_t row, const double* x) {
    const float* const w = m.values.data() + (expert * m.view.rows + row) * m.view.all.cols;
    const double sum = std::inner_product(w, w + m.view.all.cols, x, 0.0);
    return m.scales.empty() ? sum : sum * static_cast<double>(m.scales[static_cast<size_t>(expert)]);
  }

  // The layer's formula.
  std::vector<double> expected(const Shape& shape, const Matrix& gate, const Matrix& up, const Matrix& down,
                               std::span<const float> f, std::span<const float> before) const {
    std::vector<double> y(before.begin(), before.end());
    const std::vector<double> x(f.begin(), f.end());
    std::vector<double> hidden(static_cast<size_t>(shape.d_expert));
    for (size_t slot = 0; slot < ids_.size(); ++slot) {
      const auto token = static_cast<int64_t>(slot) / shape.used;
      const double* const input = x.data() + token * shape.d_model;
      for (int64_t r = 0; r < shape.d_expert; ++r) {
        const double g = row_product(gate, ids_[slot], r, input);
        hidden[static_cast<size_t>(r)] = g / (1 + std::exp(-g)) * row_product(up, ids_[slot], r, input);
      }
      for (int64_t r = 0; r < shape.d_model; ++r) {
        y[static_cast<size_t>(token * shape.d_model + r)] +=
            static_cast<double>(weights_[slot]) * row_product(down, ids_[slot], r, hidden.data());
      }
    }
    return y;
  }

  void check(DType dtype, const Shape& shape, int64_t tokens, bool scaled) {
    SCOPED_TRACE(::testing::Message()
                 << quant::dtype_info(dtype).name << ", " << shape.experts << " experts, " << tokens
                 << " tokens, " << shape.d_model << "x" << shape.d_expert);
    const Matrix gate = make(dtype, shape.experts, shape.d_expert, shape.d_model, scaled);
    const Matrix up = make(dtype, shape.experts, shape.d_expert, shape.d_model, scaled);
    const Matrix down = make(dtype, shape.experts, shape.d_model, shape.d_expert, scaled);
    const std::vector<ExpertLayer> layers{{}, {shape.experts, gate.view, up.view, down.view}};
    choose(shape, tokens);
    const std::vector<float> f = random_.normal(tokens * shape.d_model, 0.1F);
    const std::vector<float> before = random_.normal(tokens * shape.d_model);
    const std::vector<double> right = expected(shape, gate, up, down, f, before);
    std::vector<float> first;
    for (const int64_t threads : {1, 2, 3}) {
      Workers workers(threads);
      Experts experts(layers, shape.d_model, shape.d_expert, shape.used, tokens + 3,
                      cpu::kernels_for(cpu::chosen_isa()), workers);
      for (int repeat = 0; repeat < 2; ++repeat) {  // the second finds the working memory used
        std::vector<float> y(before);
        experts.add(1, {f.data(), tokens, shape.d_model}, routes(shape, tokens),
                    {y.data(), tokens, shape.d_model});
        if (first.empty()) first = y;
        ASSERT_TRUE(testing::identical(y, first)) << threads << " threads";
      }
    }
    double largest = 0;
    for (const double value : right) largest = std::max(largest, std::abs(value));
    EXPECT_TRUE(testing::close(first, right, 0.0, 1e-5 * largest));
  }

  testing::Random random_;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
};

TEST_F(ExpertsTest, AddsWhatTheFormulaSays) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kNVFP4, DType::kMXFP4}) {
    check(dtype, {.experts = 5, .used = 2, .d_model = 128, .d_expert = 64}, 1, false);
    check(dtype, {.experts = 7, .used = 3, .d_model = 64, .d_expert = 192}, random_.integer(2, 20), false);
  }
}

TEST_F(ExpertsTest, OddSizes) {
  SCOPED_TRACE(random_.describe());
  check(DType::kF32, {.experts = 3, .used = 1, .d_model = 33, .d_expert = 45}, 4, false);
  check(DType::kBF16, {.experts = 1, .used = 1, .d_model = 1, .d_expert = 1}, 2, false);
  check(DType::kF32, {.experts = 40, .used = 8, .d_model = 31, .d_expert = 97}, 5, false);
}

TEST_F(ExpertsTest, ManyTokensForOneExpert) {
  SCOPED_TRACE(random_.describe());
  check(DType::kQ8_0, {.experts = 2, .used = 1, .d_model = 64, .d_expert = 64}, 200, false);
  check(DType::kNVFP4, {.experts = 2, .used = 2, .d_model = 64, .d_expert = 64}, 65, false);
}

TEST_F(ExpertsTest, SecondLevelScalesBelongToTheirExpert) {
  SCOPED_TRACE(random_.describe());
  check(DType::kNVFP4, {.experts = 6, .used = 2, .d_model = 128, .d_expert = 64}, 9, true);
}

}  // namespace
}  // namespace sluice::offload
