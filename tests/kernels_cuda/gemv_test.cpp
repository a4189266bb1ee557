// GEMV from panels against decoded weights in double precision; bits that do not change.
#include "kernels_cuda/gemv.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/panel_products.h"

namespace sluice::testing {
namespace {

using quant::DType;

/// A matrix on the GPU.
struct Weights {
  Weights(DType type, int64_t rows, int64_t cols, Random& random, float scale = 1.0F)
      : host(type, rows, cols, random),
        device(host.matrix().panels),
        view{.layout = host.matrix().layout, .data = device.data(), .rows = rows, .scale = scale} {}

  PanelProducts host;
  cuda::DeviceBuffer<std::byte> device;
  quant::PanelView view;
};

struct Expected {
  std::vector<double> y;        // [tokens, rows]
  std::vector<double> allowed;  // the same
};

Expected expected_products(const Weights& w, const std::vector<float>& x, int64_t stride, int64_t tokens) {
  Expected expected;
  for (int64_t t = 0; t < tokens; ++t) {
    const ExpectedProduct one = w.host.with(x.data() + t * stride, double{w.view.scale});
    expected.y.insert(expected.y.end(), one.y.begin(), one.y.end());
    expected.allowed.insert(expected.allowed.end(), one.allowed.begin(), one.allowed.end());
  }
  return expected;
}

class CudaGemv : public OnGpu {
 protected:
  /// y [tokens, rows] of one product; poisoned before.
  std::vector<float> product(const Weights& w, const std::vector<float>& x, int64_t stride, int64_t tokens) {
    const cuda::DeviceBuffer<float> there(x);
    const cuda::DeviceBuffer<float> y(tokens * w.view.rows);
    y.fill_bytes(0xFF, stream());
    const cuda::GemvScratch scratch(w.view.rows);
    const cuda::GemvProduct one{w.view, y.data(), w.view.rows};
    cuda::gemv({&one, 1}, {there.data(), stride, tokens}, scratch, stream());
    return y.to_host(stream());
  }
  void check(const Weights& w, const std::vector<float>& x, int64_t stride, int64_t tokens) {
    const Expected expected = expected_products(w, x, stride, tokens);
    EXPECT_TRUE(within(product(w, x, stride, tokens), expected.y, expected.allowed))
        << quant::dtype_info(w.view.layout.dtype).name << ' ' << w.view.rows << " x " << w.view.layout.cols
        << ", " << tokens << " tokens";
  }
};

TEST_F(CudaGemv, EveryTypeAndShape) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t block = quant::dtype_info(type).elements_per_block;
    for (const int64_t rows : {1, 15, 16, 17, 129, 1000}) {
      for (const int64_t blocks : {1, 3, 17, 40}) {
        const int64_t cols = block == 1 ? blocks * 29 : blocks * block;
        const Weights w(type, rows, cols, random_, rows % 2 == 0 ? 1.0F : random_.uniform(0.1F, 3.0F));
        for (const int64_t tokens : {int64_t{1}, random_.integer(2, 8)}) {
          const int64_t stride = (cols + 3) / 4 * 4 + 4 * random_.integer(0, 3);
          check(w, random_.normal(stride * tokens), stride, tokens);
        }
      }
    }
  }
}

TEST_F(CudaGemv, RealWidths) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K, DType::kQ6_K, DType::kBF16}) {
    for (const int64_t cols : {1536, 7168, 18432}) {
      const Weights w(type, 144, cols, random_, 0.37F);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 8}) check(w, random_.normal(cols * tokens), cols, tokens);
    }
  }
}

TEST_F(CudaGemv, MoreGroupsThanABlockAddsUpAtOnce) {
  SCOPED_TRACE(random_.describe());
  const int64_t cols = 1024;
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_0}) {
    const Weights w(type, 19011, cols, random_, 0.5F);
    for (const int64_t tokens : {1, 2}) check(w, random_.normal(cols * tokens), cols, tokens);
  }
}

TEST_F(CudaGemv, HostileActivations) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t cols = 1536;
    const Weights w(type, 64, cols, random_);
    for (const float size : {0.0F, 1e-18F, 1e-6F, 1e15F}) check(w, random_.normal(cols * 2, size), cols, 2);
    std::vector<float> outliers = random_.normal(cols);
    for (int64_t i = 0; i < 10; ++i) {
      outliers[static_cast<size_t>(random_.integer(0, cols - 1))] = random_.uniform(-1e6F, 1e6F);
    }
    outliers[5] = -0.0F;
    outliers[77] = std::numeric_limits<float>::denorm_min();
    check(w, outliers, cols, 1);
  }
}

TEST_F(CudaGemv, NonFiniteActivationsStayNonFinite) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const Weights w(type, 33, 512, random_);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = random_.normal(1536);
      x[512 + 300] = bad;  // token 1
      const std::vector<float> y = product(w, x, 512, 3);
      for (size_t r = 0; r < 33; ++r) {
        // A weight of zero times infinity is NaN too, so no weight hides it.
        EXPECT_FALSE(std::isfinite(y[33 + r])) << quant::dtype_info(type).name << ' ' << r;
        EXPECT_TRUE(std::isfinite(y[r]) && std::isfinite(y[66 + r]))
            << quant::dtype_info(type).name << ' ' << r;
      }
    }
  }
}

TEST_F(CudaGemv, SameBitsOnEveryRun) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t cols = 2048;
    const Weights w(type, 300, cols, random_);
    const std::vector<float> x = random_.normal(cols * 8);
    for (const int64_t tokens : {1, 2, 3, 8}) {
      const std::vector<float> first = product(w, x, cols, tokens);
      for (int i = 0; i < 20; ++i) EXPECT_TRUE(identical(product(w, x, cols, tokens), first)) << i;
      if (tokens == 8) {  // a token's result is its own whatever stands beside it
        const std::vector<float> fewer = product(w, x, cols, 5);
        EXPECT_TRUE(identical(fewer, std::span(first).first(fewer.size()))) << quant::dtype_info(type).name;
      }
    }
  }
}

TEST_F(CudaGemv, ProductsThatShareAnInput) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kF32}) {
    const int64_t cols = 1024;
    const std::vector<float> x = random_.normal(cols * 3);
    const cuda::DeviceBuffer<float> there(x);
    std::vector<Weights> weights;
    for (const int64_t rows : {200, 1, 128, 17}) weights.emplace_back(type, rows, cols, random_, 0.5F);
    std::vector<cuda::DeviceBuffer<float>> y;
    std::vector<cuda::GemvProduct> products;
    for (const Weights& w : weights) {
      y.emplace_back(3 * 256);
      y.back().fill_bytes(0xFF, stream());
      products.push_back({w.view, y.back().data(), 256});
    }
    const cuda::GemvScratch scratch(346);
    cuda::gemv(products, {there.data(), cols, 3}, scratch, stream());
    for (size_t i = 0; i < weights.size(); ++i) {
      const Expected expected = expected_products(weights[i], x, cols, 3);
      const std::vector<float> got = y[i].to_host(stream());
      const auto rows = static_cast<size_t>(weights[i].view.rows);
      for (size_t t = 0; t < 3; ++t) {
        EXPECT_TRUE(within(std::span(got).subspan(t * 256, rows),
                           std::span(expected.y).subspan(t * rows, rows),
                           std::span(expected.allowed).subspan(t * rows, rows)));
        EXPECT_TRUE(std::isnan(got[t * 256 + rows])) << "written beyond the rows";
      }
    }
  }
}

TEST_F(CudaGemv, GateAndUp) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    for (const int64_t rows : {1, 64, 65, 500}) {
      const int64_t cols = 1024;
      const int64_t tokens = random_.integer(1, 8);
      const Weights gate(type, rows, cols, random_, 1e-3F);
      const Weights up(type, rows, cols, random_, 0.7F);
      const std::vector<float> x = random_.normal(cols * tokens, 1e-2F);
      const std::vector<float> g = product(gate, x, cols, tokens);
      const std::vector<float> u = product(up, x, cols, tokens);
      std::vector<double> expected;
      std::vector<double> allowed;
      for (size_t i = 0; i < g.size(); ++i) {
        const double a = g[i];
        expected.push_back(a / (1 + std::exp(-a)) * double{u[i]});
        // The sums' slices may differ from the single products'; silu's slope is below 1.1.
        allowed.push_back(0);
      }
      const Expected of_gate = expected_products(gate, x, cols, tokens);
      const Expected of_up = expected_products(up, x, cols, tokens);
      for (size_t i = 0; i < g.size(); ++i) {
        const double silu = double{g[i]} / (1 + std::exp(-double{g[i]}));
        allowed[i] = 2.2 * of_gate.allowed[i] * std::abs(double{u[i]}) +
                     2 * of_up.allowed[i] * std::abs(silu) + 8 * kRounding * std::abs(expected[i]) + 1e-36;
      }
      const cuda::DeviceBuffer<float> there(x);
      const cuda::DeviceBuffer<float> y(tokens * rows);
      y.fill_bytes(0xFF, stream());
      const cuda::GemvScratch scratch(2 * rows);
      cuda::gemv_swiglu(gate.view, {up.view, y.data(), rows}, {there.data(), cols, tokens}, scratch,
                        stream());
      EXPECT_TRUE(within(y.to_host(stream()), expected, allowed))
          << quant::dtype_info(type).name << ' ' << rows;
    }
  }
}

TEST_F(CudaGemv, RefusesWhatItCannotDo) {
  const Weights w(DType::kQ8_0, 32, 64, random_);
  const Weights other(DType::kQ8_0, 32, 96, random_);
  const cuda::DeviceBuffer<float> x(1024);
  const cuda::DeviceBuffer<float> y(1024);
  const cuda::GemvScratch scratch(64);
  const auto call = [&](std::vector<cuda::GemvProduct> products, const cuda::GemvInput& input) {
    return error_text([&] { return cuda::gemv(products, input, scratch, stream()), 0; });
  };
  EXPECT_EQ(call({{w.view, y.data(), 32}}, {x.data(), 64, 9}), "gemv: expected 1 to 8 tokens, found 9");
  EXPECT_NE(call({{w.view, y.data(), 32}, {other.view, y.data(), 32}}, {x.data(), 96, 1}), "no error");
  EXPECT_NE(call({{w.view, y.data(), 32}}, {x.data() + 1, 64, 1}), "no error");
  EXPECT_NE(call({}, {x.data(), 64, 1}), "no error");
  EXPECT_EQ(call({{w.view, y.data(), 32}}, {x.data(), 64, 8}), "no error");
}

}  // namespace
}  // namespace sluice::testing
