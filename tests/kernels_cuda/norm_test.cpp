// RMSNorm and LayerNorm against double precision.
#include "kernels_cuda/norm.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

constexpr float kEps = 1e-6F;

class CudaNorm : public OnGpu {
 protected:
  static double mean_square(const float* x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * double{x[i]};
    return sum / static_cast<double>(n);
  }
};

TEST_F(CudaNorm, RmsNorm) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {1, 2, 31, 33, 128, 512, 1536, 7168}) {
    for (const float magnitude : {1.0F, 1e-18F, 1e-4F, 1e15F, 0.0F}) {
      const int64_t rows = 3;
      const int64_t stride = n + 5;
      const std::vector<float> x = random_.normal(rows * stride, magnitude);
      const std::vector<float> gain = random_.normal(n);
      const cuda::DeviceBuffer<float> there(x);
      const cuda::DeviceBuffer<float> gain_there(gain);
      const cuda::DeviceBuffer<float> y(rows * n);
      y.fill_bytes(0xFF, stream());
      cuda::rms_norm({there.data(), stride, y.data(), n, rows, n}, gain_there.data(), kEps, stream());
      std::vector<double> expected;
      for (int64_t r = 0; r < rows; ++r) {
        const double rms = std::sqrt(mean_square(x.data() + r * stride, n) + double{kEps});
        for (int64_t i = 0; i < n; ++i) {
          expected.push_back(double{gain[static_cast<size_t>(i)]} *
                             double{x[static_cast<size_t>(r * stride + i)]} / rms);
        }
      }
      // 512 threads add a few values each, then in pairs; half of that error goes through the root, six more
      // follow.
      const double roundings = (static_cast<double>(n) / 512 + 12) / 2 + 7;
      EXPECT_TRUE(close(y.to_host(stream()), expected, roundings * kRounding, 1e-42))
          << n << ' ' << magnitude;
    }
  }
}

TEST_F(CudaNorm, AddThenNorm) {
  SCOPED_TRACE(random_.describe());
  const int64_t n = 7168;
  const std::vector<float> x = random_.normal(2 * n);
  const std::vector<float> delta = random_.normal(2 * n);
  const std::vector<float> gain = random_.normal(n);
  std::vector<float> sum = x;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += delta[i];
  const cuda::DeviceBuffer<float> x_there(x);
  const cuda::DeviceBuffer<float> delta_there(delta);
  const cuda::DeviceBuffer<float> gain_there(gain);
  const cuda::DeviceBuffer<float> y(2 * n);
  cuda::add_rms_norm({x_there.data(), delta_there.data(), n}, {nullptr, n, y.data(), n, 2, n},
                     gain_there.data(), kEps, stream());
  const std::vector<float> fused = y.to_host(stream());
  EXPECT_EQ(x_there.to_host(stream()), sum);
  cuda::rms_norm({x_there.data(), n, y.data(), n, 2, n}, gain_there.data(), kEps, stream());
  EXPECT_TRUE(identical(y.to_host(stream()), fused));
  cuda::rms_norm({x_there.data(), n, x_there.data(), n, 2, n}, gain_there.data(), kEps, stream());
  EXPECT_TRUE(identical(x_there.to_host(stream()), fused)) << "in place";
}

TEST_F(CudaNorm, LayerNorm) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {1, 7, 32, 128, 1000}) {
    for (const float offset : {0.0F, 3.0F, -100.0F}) {
      std::vector<float> x = random_.normal(n);
      for (float& v : x) v += offset;
      const std::vector<float> gain = random_.normal(n);
      const std::vector<float> bias = random_.normal(n);
      const auto count = static_cast<double>(n);
      const double mean = std::accumulate(x.begin(), x.end(), 0.0) / count;
      double variance = 0;
      double magnitude = 0;
      for (const float v : x) {
        variance += (double{v} - mean) * (double{v} - mean) / count;
        magnitude += std::abs(double{v}) / count;
      }
      const double deviation = std::sqrt(variance + double{kEps});
      const double mean_error = 16 * kRounding * magnitude;
      std::vector<double> expected;
      std::vector<double> allowed;
      for (size_t i = 0; i < x.size(); ++i) {
        const double normed = (double{x[i]} - mean) / deviation;
        const double g = gain[i];
        expected.push_back(g * normed + double{bias[i]});
        const double relative =
            20 * kRounding + mean_error * (mean_error + 2 * kRounding * magnitude) / (deviation * deviation);
        allowed.push_back(std::abs(g) * (std::abs(normed) * relative +
                                         (mean_error + kRounding * std::abs(double{x[i]})) / deviation) +
                          4 * kRounding * (std::abs(expected[i]) + std::abs(double{bias[i]})));
      }
      const cuda::DeviceBuffer<float> there(x);
      const cuda::DeviceBuffer<float> gain_there(gain);
      const cuda::DeviceBuffer<float> bias_there(bias);
      cuda::layer_norm({there.data(), n, there.data(), n, 1, n}, gain_there.data(), bias_there.data(), kEps,
                       stream());
      EXPECT_TRUE(within(there.to_host(stream()), expected, allowed)) << n << ' ' << offset;
    }
  }
}

TEST_F(CudaNorm, NaNStaysAndEmptyRowsAreRefused) {
  const std::vector<float> x = {1.0F, std::nanf(""), 2.0F};
  const cuda::DeviceBuffer<float> there(x);
  const cuda::DeviceBuffer<float> gain(std::vector<float>(3, 1.0F));
  cuda::rms_norm({there.data(), 3, there.data(), 3, 1, 3}, gain.data(), kEps, stream());
  for (const float v : there.to_host(stream())) EXPECT_TRUE(std::isnan(v));
  EXPECT_NE(error_text([&] {
              return cuda::rms_norm({there.data(), 3, there.data(), 3, 1, 0}, gain.data(), kEps, stream()), 0;
            }),
            "no error");
}

}  // namespace
}  // namespace sluice::testing
