// Panels back to numbers, to the bits of quant; embedding rows; the large product through bf16.
#include "kernels_cuda/dequantize.h"

#include <cmath>
#include <vector>

#include "kernels_cuda/matmul.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/random_panels.h"

namespace sluice::testing {
namespace {

using quant::DType;

class CudaDequantize : public OnGpu {
 protected:
  static std::vector<DType> types() {
    std::vector<DType> found;
    for (const quant::DTypeInfo& info : quant::all_dtypes()) {
      if (quant::can_dequantize(info.dtype)) found.push_back(info.dtype);
    }
    return found;
  }
};

TEST_F(CudaDequantize, EveryTypeToTheBit) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : types()) {
    const int64_t block = quant::dtype_info(type).elements_per_block;
    for (const int64_t cols : {block == 1 ? 29 : block, 1536 / block * block, int64_t{7168}}) {
      const int64_t rows = 37;
      const RandomPanels w(type, rows, cols, random_);
      const cuda::DeviceBuffer<std::byte> there(w.panels);
      const quant::PanelView view{.layout = w.layout, .data = there.data(), .rows = rows, .scale = 0.5F};
      const int64_t stride = (cols + 7) / 8 * 8 + 8;
      const cuda::DeviceBuffer<float> f32(48 * stride);
      const cuda::DeviceBuffer<uint16_t> bf16(48 * stride);
      f32.fill_bytes(0xFF, stream());
      bf16.fill_bytes(0xFF, stream());
      cuda::dequantize_f32(view, {0, 3}, f32.data(), stride, stream());
      cuda::dequantize_bf16(view, {1, 2}, bf16.data(), stride, stream());
      const std::vector<float> got = f32.to_host(stream());
      const std::vector<uint16_t> halves = bf16.to_host(stream());
      for (int64_t r = 0; r < rows; ++r) {
        const auto row =
            std::span(w.values).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols));
        ASSERT_TRUE(identical(
            std::span(got).subspan(static_cast<size_t>(r * stride), static_cast<size_t>(cols)), row))
            << quant::dtype_info(type).name << " row " << r;
        EXPECT_TRUE(std::isnan(got[static_cast<size_t>(r * stride + cols)]));
        for (int64_t k = 0; r >= 16 && k < cols; ++k) {
          ASSERT_EQ(halves[static_cast<size_t>((r - 16) * stride + k)],
                    f32_to_bf16(row[static_cast<size_t>(k)]));
        }
      }
      for (int64_t k = 0; k < cols; ++k) EXPECT_EQ(got[static_cast<size_t>(47 * stride + k)], 0.0F);
    }
  }
}

TEST_F(CudaDequantize, EmbedsRows) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : types()) {
    const int64_t cols = 512;
    const RandomPanels w(type, 100, cols, random_);
    const cuda::DeviceBuffer<std::byte> there(w.panels);
    const quant::PanelView view{.layout = w.layout, .data = there.data(), .rows = 100, .scale = 0.75F};
    const std::vector<int32_t> ids = {99, 0, 16, 15, 99, static_cast<int32_t>(random_.integer(0, 99))};
    const cuda::DeviceBuffer<int32_t> ids_there(ids);
    const cuda::DeviceBuffer<float> out(6 * cols);
    cuda::embed(view, ids_there.data(), 6, out.data(), cols, stream());
    const std::vector<float> got = out.to_host(stream());
    for (size_t t = 0; t < ids.size(); ++t) {
      std::vector<float> row(w.values.begin() + ids[t] * cols, w.values.begin() + (ids[t] + 1) * cols);
      for (float& v : row) v *= 0.75F;
      EXPECT_TRUE(
          identical(std::span(got).subspan(t * static_cast<size_t>(cols), static_cast<size_t>(cols)), row))
          << quant::dtype_info(type).name << " token " << t;
    }
  }
}

TEST_F(CudaDequantize, LargeProduct) {
  SCOPED_TRACE(random_.describe());
  const cuda::Blas blas;
  for (const DType type : types()) {
    for (const int64_t tokens : {1, 33, 100}) {
      const int64_t cols = quant::dtype_info(type).elements_per_block == 1 ? 333 : 768;
      const int64_t rows = 150;
      const RandomPanels w(type, rows, cols, random_);
      const std::vector<float> x = random_.normal(tokens * cols);
      std::vector<double> expected;
      std::vector<double> allowed;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t k = 0; k < cols; ++k) {
            const double product =
                double{bf16_to_f32(f32_to_bf16(w.values[static_cast<size_t>(r * cols + k)]))} *
                double{bf16_to_f32(f32_to_bf16(x[static_cast<size_t>(t * cols + k)]))};
            sum += product;
            magnitude += std::abs(product);
          }
          expected.push_back(sum * 0.7);
          // Tensor cores truncate where they align: two roundings for each of at most `cols` additions.
          allowed.push_back(magnitude * 0.7 * 2 * static_cast<double>(cols) * kRounding + 1e-35);
        }
      }
      const cuda::DeviceBuffer<std::byte> there(w.panels);
      const quant::PanelView view{.layout = w.layout, .data = there.data(), .rows = rows, .scale = 0.7F};
      const cuda::DeviceBuffer<float> x_there(x);
      const cuda::DeviceBuffer<float> y(tokens * rows);
      y.fill_bytes(0xFF, stream());
      const cuda::MatmulScratch scratch(tokens, cols, int64_t{5} * 16 * 776 * 2);  // two pieces
      cuda::matmul(view, {x_there.data(), cols, y.data(), rows, tokens}, scratch, blas, stream());
      EXPECT_TRUE(within(y.to_host(stream()), expected, allowed))
          << quant::dtype_info(type).name << ' ' << tokens;
      EXPECT_NE(error_text([&] {
                  return cuda::matmul(view, {x_there.data(), cols, y.data(), rows, 2 * tokens}, scratch, blas,
                                      stream()),
                         0;
                }),
                "no error");
    }
  }
}

}  // namespace
}  // namespace sluice::testing
