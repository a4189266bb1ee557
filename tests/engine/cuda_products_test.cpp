// Products with any number of tokens: exact ones for every type, rounded ones near them.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "engine/backends/cuda_products.h"
#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/on_gpu.h"
#include "support/random_panels.h"

namespace sluice {
namespace {

using quant::DType;
using testing::RandomPanels;

constexpr int64_t kCols = 256;
constexpr int64_t kRows = 100;
constexpr int64_t kMostTokens = 70;

struct Weights {
  Weights(DType type, testing::Random& random)
      : host(type, kRows, kCols, random),
        device(host.panels),
        view{.layout = host.layout,
             .data = device.data(),
             .rows = kRows,
             .scale = random.uniform(0.5F, 2.0F)} {}

  RandomPanels host;
  cuda::DeviceBuffer<std::byte> device;
  quant::PanelView view;
};

class CudaProductsTest : public testing::OnGpu {
 protected:
  /// What `relative` of the sum of the terms' magnitudes allows; `relative` has the accumulation in it.
  static void expect_product(const Weights& w, const std::vector<float>& x, const std::vector<float>& y,
                             double relative) {
    std::vector<double> expected;
    std::vector<double> allowed;
    for (size_t t = 0; t < x.size() / kCols; ++t) {
      for (size_t r = 0; r < kRows; ++r) {
        double sum = 0;
        double parts = 0;
        for (size_t k = 0; k < kCols; ++k) {
          const double term = double{w.host.values[r * kCols + k]} * double{x[t * kCols + k]};
          sum += term;
          parts += std::abs(term);
        }
        expected.push_back(double{w.view.scale} * sum);
        allowed.push_back(double{w.view.scale} * parts * relative + 1e-30);
      }
    }
    EXPECT_TRUE(testing::within(y, expected, allowed)) << quant::dtype_info(w.view.layout.dtype).name;
  }

  /// Two matrices of different types with the same x, the second one never rounded.
  void check(const CudaProducts& products, const std::array<const Weights*, 2>& w, int64_t tokens,
             double relative) {
    const std::vector<float> x = random_.normal(tokens * kCols);
    const cuda::DeviceBuffer<float> x_there(x);
    const cuda::DeviceBuffer<float> first(tokens * kRows);
    const cuda::DeviceBuffer<float> second(tokens * kRows);
    const CudaProduct both[] = {{w[0]->view, {first.data(), tokens, kRows}},
                                {w[1]->view, {second.data(), tokens, kRows}, CudaRounding::kNone}};
    products.multiply(both, {x_there.data(), tokens, kCols}, stream());
    expect_product(*w[0], x, first.to_host(stream()), relative);
    expect_product(*w[1], x, second.to_host(stream()), kExact);
  }

  static constexpr double kExact = 0x1p-15;   // 256 float32 sums, and bytes of x: kernels_cuda/gemv.h
  static constexpr double kRounded = 0x1p-7;  // bf16 weights and activations
};

TEST_F(CudaProductsTest, ExactOnesForAnyNumberOfTokens) {
  SCOPED_TRACE(random_.describe());
  const CudaProducts products({kMostTokens, 2 * kRows, kCols, CudaRounding::kNone});
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kBF16}) {
    const Weights one(type, random_);
    const Weights other(DType::kF32, random_);
    for (const int64_t tokens : {1, 2, 8, 9, 17, 70}) check(products, {&one, &other}, tokens, kExact);
  }
}

TEST_F(CudaProductsTest, RoundedOnesFromNineTokensOn) {
  SCOPED_TRACE(random_.describe());
  const CudaProducts products({kMostTokens, 2 * kRows, kCols, CudaRounding::kAllowed});
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kBF16}) {
    const Weights one(type, random_);
    const Weights other(DType::kF32, random_);
    for (const int64_t tokens : {1, 8}) check(products, {&one, &other}, tokens, kExact);
    for (const int64_t tokens : {9, 70}) check(products, {&one, &other}, tokens, kRounded);
  }
}

}  // namespace
}  // namespace sluice
