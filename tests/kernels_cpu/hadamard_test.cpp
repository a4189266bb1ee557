// The Walsh-Hadamard transform: the vector of the model specification (2.6), its definition, its inverse.
#include "kernels_cpu/hadamard.h"

#include <bit>
#include <cmath>

#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice::testing {
namespace {

TEST(Hadamard, VectorOfTheSpecification) {
  std::vector<float> x;
  x.reserve(128);
  for (int n = 0; n < 128; ++n) {
    x.push_back(static_cast<float>(n + 1) / 128.0F);
  }
  const std::vector<float> original = x;
  cpu::hadamard(x);
  EXPECT_TRUE(close(std::span(x).first(5),
                    std::vector<double>{5.701048, -0.044194, -0.088388, 0.0, -0.176777}, 0.0, 1e-6));
  EXPECT_NEAR(static_cast<double>(x[64]), -2.828427, 1e-6);
  cpu::hadamard(x);
  // Sums of 128 values below 1, twice seven rounds of additions.
  EXPECT_TRUE(close(x, original, 0.0, 16 * 12 * kRounding));
}

TEST(Hadamard, FollowsTheSylvesterDefinition) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (const size_t n : {1U, 2U, 4U, 64U, 256U}) {
    std::vector<float> x = random.normal(static_cast<int64_t>(n));
    std::vector<double> expected(n, 0.0);
    double magnitude = 0.0;
    for (size_t j = 0; j < n; ++j) {
      magnitude += std::abs(static_cast<double>(x[j]));
      for (size_t i = 0; i < n; ++i) {
        const double sign = std::popcount(i & j) % 2 == 0 ? 1.0 : -1.0;  // H[i][j] = (-1)^popcount(i & j)
        expected[i] += sign * static_cast<double>(x[j]) / std::sqrt(static_cast<double>(n));
      }
    }
    cpu::hadamard(x);
    EXPECT_TRUE(close(x, expected, 0.0, 12 * kRounding * magnitude)) << n;
  }
}

}  // namespace
}  // namespace sluice::testing
