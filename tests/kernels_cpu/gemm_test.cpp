// Float32 matrix products against double precision; an element does not depend on its place.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

constexpr float kGuard = -777.25F;

/// Which of the kernels: a letter per operand, t where it lies transposed.
enum class Form { kNt, kNn, kTn };
constexpr std::array kForms = {Form::kNt, Form::kNn, Form::kTn};

/// A product's operands with padded rows, and the guard values around its result.
struct Product {
  int64_t m;
  int64_t n;
  int64_t k;
  Form form;
  int64_t padding = 3;
  std::vector<float> a = {};
  std::vector<float> b = {};
  std::vector<float> c = {};

  [[nodiscard]] bool adds() const { return form != Form::kNt; }
  [[nodiscard]] int64_t a_rows() const { return form == Form::kTn ? k : m; }
  [[nodiscard]] int64_t lda() const { return (form == Form::kTn ? m : k) + padding; }
  [[nodiscard]] int64_t b_rows() const { return form == Form::kNt ? n : k; }
  [[nodiscard]] int64_t ldb() const { return (form == Form::kNt ? k : n) + padding; }
  [[nodiscard]] cpu::GemmArgs args() {
    return {a.data(), lda(), b.data(), ldb(), c.data(), n + padding, m, n, k};
  }
  /// The product of rows from i on and columns from j on.
  [[nodiscard]] cpu::GemmArgs part(int64_t i, int64_t rows, int64_t j, int64_t columns) {
    cpu::GemmArgs part = args();
    part.a += form == Form::kTn ? i : i * lda();
    part.b += form == Form::kNt ? j * ldb() : j;
    part.c += i * part.ldc + j;
    part.m = rows;
    part.n = columns;
    return part;
  }
  [[nodiscard]] float a_at(int64_t i, int64_t kk) const {
    return a[static_cast<size_t>(form == Form::kTn ? kk * lda() + i : i * lda() + kk)];
  }
  [[nodiscard]] float b_at(int64_t kk, int64_t j) const {
    return b[static_cast<size_t>(form == Form::kNt ? j * ldb() + kk : kk * ldb() + j)];
  }
  [[nodiscard]] size_t c_index(int64_t i, int64_t j) const {
    return static_cast<size_t>(i * (n + padding) + j);
  }
};

Product make_product(Random& random, int64_t m, int64_t n, int64_t k, Form form) {
  Product p{.m = m, .n = n, .k = k, .form = form};
  p.a = random.normal(p.a_rows() * p.lda());
  p.b = random.normal(p.b_rows() * p.ldb());
  p.c.assign(static_cast<size_t>(m * (n + p.padding)), kGuard);
  return p;
}

/// Checks every element against double precision; `before` is what the adding ones found in c.
void check(const Product& p, const std::vector<float>& before) {
  // k products and k sums, each rounded once; the sum of magnitudes bounds every partial result.
  const double unit = static_cast<double>(p.k + 2) * kRounding;
  std::vector<double> expected(p.c.size());
  std::vector<double> allowed(p.c.size(), 0.0);
  for (size_t i = 0; i < p.c.size(); ++i) {
    expected[i] = static_cast<double>(before[i]);
  }
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = p.adds() ? static_cast<double>(before[p.c_index(i, j)]) : 0.0;
      double magnitude = std::abs(sum);
      for (int64_t k = 0; k < p.k; ++k) {
        const double product = static_cast<double>(p.a_at(i, k)) * static_cast<double>(p.b_at(k, j));
        sum += product;
        magnitude += std::abs(product);
      }
      expected[p.c_index(i, j)] = sum;
      // Products below the normal range lose up to half a subnormal step each.
      allowed[p.c_index(i, j)] =
          unit * magnitude + static_cast<double>(p.k) * double{std::numeric_limits<float>::denorm_min()};
    }
  }
  EXPECT_TRUE(within(p.c, expected, allowed)) << p.m << " x " << p.n << " x " << p.k;
}

class Gemm : public EveryIsa {
 protected:
  [[nodiscard]] auto kernel(Form form) const {
    return form == Form::kNt   ? kernels_.gemm_nt
           : form == Form::kNn ? kernels_.gemm_nn_add
                               : kernels_.gemm_tn_add;
  }
  void run(Product& p) { kernel(p.form)(p.args()); }

  void compute_and_check(Product p) {
    SCOPED_TRACE(random_.describe());
    const std::vector<float> before = p.c;
    run(p);
    check(p, before);
  }
};

TEST_P(Gemm, ShapesAroundEveryTileBorder) {
  for (const Form form : kForms) {
    for (const int64_t m : {1, 2, 3, 4, 5, 11, 12, 13, 17, 33}) {
      for (const int64_t n : {1, 3, 4, 5, 15, 16, 17, 31, 33, 65, 130}) {
        const int64_t k = random_.integer(1, 70);
        compute_and_check(make_product(random_, m, n, k, form));
      }
    }
  }
}

TEST_P(Gemm, LengthsAroundEveryChunkBorder) {
  for (const Form form : kForms) {
    for (const int64_t k : {0, 1, 7, 8, 9, 15, 16, 17, 511, 512, 513, 1023, 1025, 1536, 7168}) {
      compute_and_check(make_product(random_, 6, 9, k, form));
      compute_and_check(make_product(random_, 1, 9, k, form));
    }
  }
}

TEST_P(Gemm, HostileValues) {
  const std::vector<float> hostile = {0.0F, -0.0F,   1e-45F, -1e-40F, 1.1754944e-38F, 1e18F,
                                      1.0F, -1e-20F, -1e18F, 3.0F,    -1.0F,          5e-39F};
  for (const Form form : kForms) {
    Product p = make_product(random_, 9, 37, 131, form);
    for (std::vector<float>* operand : {&p.a, &p.b}) {
      for (float& value : *operand) {
        value = hostile[static_cast<size_t>(random_.integer(0, static_cast<int64_t>(hostile.size()) - 1))];
      }
    }
    std::ranges::fill(p.c, 0.0F);
    compute_and_check(std::move(p));
  }
}

/// Every row and every column computed alone gives the bits that it has in the whole product.
TEST_P(Gemm, AnElementDoesNotDependOnItsPlace) {
  SCOPED_TRACE(random_.describe());
  for (const Form form : kForms) {
    for (const int64_t k : {3, 100, 512, 1300}) {
      Product whole = make_product(random_, 21, 75, k, form);
      const Product start = whole;
      run(whole);
      for (int64_t trial = 0; trial < 40; ++trial) {
        const int64_t i = random_.integer(0, whole.m - 1);
        const int64_t rows = random_.integer(1, whole.m - i);
        const int64_t j = random_.integer(0, whole.n - 1);
        const int64_t columns = random_.integer(1, whole.n - j);
        Product part = start;
        kernel(form)(part.part(i, rows, j, columns));
        for (int64_t r = i; r < i + rows; ++r) {
          const auto at = [&](const Product& p) {
            return std::span(p.c).subspan(p.c_index(r, j), static_cast<size_t>(columns));
          };
          ASSERT_TRUE(identical(at(part), at(whole))) << "row " << r << " of rows " << i << "+" << rows
                                                      << ", columns " << j << "+" << columns << ", k " << k;
        }
      }
    }
  }
}

TEST_P(Gemm, TransposeMovesEveryElementAndNothingElse) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t rows : {1, 7, 8, 9, 15, 16, 17, 33}) {
    for (const int64_t cols : {1, 8, 15, 16, 31, 40}) {
      const std::vector<float> x = random_.normal(rows * (cols + 2));
      std::vector<float> y(static_cast<size_t>(cols * (rows + 3)), kGuard);
      std::vector<float> expected = y;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          expected[static_cast<size_t>(c * (rows + 3) + r)] = x[static_cast<size_t>(r * (cols + 2) + c)];
        }
      }
      kernels_.transpose(x.data(), cols + 2, rows, cols, y.data(), rows + 3);
      ASSERT_TRUE(identical(y, expected)) << rows << " x " << cols;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Gemm, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
