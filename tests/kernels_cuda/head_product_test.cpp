// Products of each head's matrix against decoded weights in double precision; bits that do not change.
#include "kernels_cuda/head_product.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/random_panels.h"

namespace sluice::testing {
namespace {

using quant::DType;

/// The matrices of all heads, and activations with gaps between heads and between tokens.
struct Heads {
  Heads(DType type, int64_t n_heads, int64_t n_rows, int64_t n_cols, Random& random)
      : heads(n_heads), rows(n_rows), cols(n_cols), head_stride(n_cols + 4 * random.integer(0, 3)) {
    stride = heads * head_stride + 4 * random.integer(0, 3);
    std::vector<std::byte> panels;
    for (int64_t h = 0; h < heads; ++h) {
      host.emplace_back(type, rows, cols, random);
      panels.insert(panels.end(), host.back().panels.begin(), host.back().panels.end());
    }
    device = cuda::DeviceBuffer<std::byte>(panels);
    view = {.layout = host.front().layout,
            .data = device.data(),
            .rows = heads * cuda::head_panels(rows) * quant::kPanelRows,
            .scale = random.uniform(0.1F, 3.0F)};
  }

  int64_t heads;
  int64_t rows;
  int64_t cols;
  int64_t head_stride;
  int64_t stride = 0;
  std::vector<RandomPanels> host;
  cuda::DeviceBuffer<std::byte> device;
  quant::PanelView view;
};

class CudaHeadProduct : public OnGpu {
 protected:
  /// y [tokens, heads, rows]; poisoned before.
  std::vector<float> product(const Heads& w, const std::vector<float>& x, int64_t tokens) {
    const cuda::DeviceBuffer<float> there(x);
    const cuda::DeviceBuffer<float> y(tokens * w.heads * w.rows);
    y.fill_bytes(0xFF, stream());
    cuda::head_product({.w = w.view,
                        .heads = w.heads,
                        .rows = w.rows,
                        .n_tokens = tokens,
                        .x = there.data(),
                        .x_stride = w.stride,
                        .x_head_stride = w.head_stride,
                        .y = y.data(),
                        .y_stride = w.heads * w.rows,
                        .y_head_stride = w.rows},
                       stream());
    return y.to_host(stream());
  }

  static void expect_product(const Heads& w, const std::vector<float>& x, const std::vector<float>& y,
                             int64_t tokens) {
    std::vector<double> expected;
    std::vector<double> allowed;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < w.heads; ++h) {
        const RandomPanels& m = w.host[static_cast<size_t>(h)];
        const float* const row = x.data() + t * w.stride + h * w.head_stride;
        for (int64_t r = 0; r < w.rows; ++r) {
          double sum = 0;
          double parts = 0;
          for (int64_t k = 0; k < w.cols; ++k) {
            const double term = double{m.values[static_cast<size_t>(r * w.cols + k)]} * double{row[k]};
            sum += term;
            parts += std::abs(term);
          }
          const double scale = double{w.view.scale};
          expected.push_back(scale * sum);
          allowed.push_back(scale * parts * static_cast<double>(w.cols + 4) * kRounding + 1e-30);
        }
      }
    }
    EXPECT_TRUE(within(y, expected, allowed))
        << quant::dtype_info(w.view.layout.dtype).name << ' ' << w.heads << " heads of " << w.rows << " x "
        << w.cols << ", " << tokens << " tokens";
  }
};

TEST_F(CudaHeadProduct, EveryTypeAndShape) {
  SCOPED_TRACE(random_.describe());
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (!quant::can_dequantize(info.dtype)) continue;
    for (const int64_t rows : {1, 16, 100, 128}) {
      const int64_t cols = std::max<int64_t>(32, info.elements_per_block) * random_.integer(1, 4);
      const Heads w(info.dtype, random_.integer(1, 5), rows, cols, random_);
      for (const int64_t tokens : {1, 2, 8, 9, 67}) {
        const std::vector<float> x = random_.normal(tokens * w.stride);
        expect_product(w, x, product(w, x, tokens), tokens);
      }
    }
  }
}

TEST_F(CudaHeadProduct, RealShapes) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kBF16}) {
    for (const auto& [rows, cols] : {std::pair{512, 128}, {128, 512}}) {
      const Heads w(type, 16, rows, cols, random_);
      const std::vector<float> x = random_.normal(3 * w.stride);
      expect_product(w, x, product(w, x, 3), 3);
    }
  }
}

TEST_F(CudaHeadProduct, ATokensBitsAreItsOwn) {
  SCOPED_TRACE(random_.describe());
  const Heads w(DType::kQ8_0, 8, 512, 128, random_);
  const int64_t tokens = 21;
  const std::vector<float> x = random_.normal(tokens * w.stride);
  const std::vector<float> together = product(w, x, tokens);
  const auto size = static_cast<size_t>(w.heads * w.rows);
  for (const int64_t t : {int64_t{0}, random_.integer(1, tokens - 2), tokens - 1}) {
    const std::vector<float> alone(x.begin() + t * w.stride, x.begin() + (t + 1) * w.stride);
    EXPECT_TRUE(
        identical(product(w, alone, 1), std::span(together).subspan(static_cast<size_t>(t) * size, size)));
  }
}

TEST_F(CudaHeadProduct, RefusesWhatItCannotTake) {
  const Heads w(DType::kBF16, 2, 20, 64, random_);
  const auto refusal = [&](auto change) {
    cuda::HeadProduct product{.w = w.view, .heads = 2, .rows = 20, .n_tokens = 0};
    change(product);
    return error_text([&] {
      cuda::head_product(product, stream());
      return 0;
    });
  };
  EXPECT_EQ(refusal([](auto&) {}), "no error");
  EXPECT_NE(refusal([](auto& p) { p.heads = 3; }).find("whole panels"), std::string::npos);
  EXPECT_NE(refusal([](auto& p) { p.x_stride = 3; }).find("16 bytes"), std::string::npos);
  EXPECT_NE(refusal([](auto& p) { p.w.layout = quant::panel_layout(DType::kBF16, 48); }).find("32"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::testing
