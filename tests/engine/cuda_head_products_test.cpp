// Absorbed attention's products with heads' matrices: few tokens exactly, many near that, against double
// precision.
#include "engine/backends/cuda_head_products.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "engine/backends/cuda_arena.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/presets.h"
#include "kernels_cuda/base/check.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/on_gpu.h"
#include "support/random_panels.h"

namespace sluice {
namespace {

using quant::DType;
using testing::RandomPanels;

constexpr int64_t kMany = 30;

/// The matrices of all heads.
struct Heads {
  Heads(DType type, int64_t heads, int64_t rows, int64_t cols, testing::Random& random)
      : host(type, heads * rows, cols, random),
        device(host.panels),
        there{.panels = {.layout = host.layout,
                         .data = device.data(),
                         .rows = heads * rows,
                         .scale = random.uniform(0.5F, 2.0F)},
              .rows = rows} {}

  RandomPanels host;
  cuda::DeviceBuffer<std::byte> device;
  CudaHeads there;
};

/// x [n, heads, x_stride of each], of which the first columns count; y [n, heads, y_stride].
void expect_products(const Heads& w, const std::vector<float>& x, size_t x_stride,
                     const std::vector<float>& y, size_t y_stride, double relative) {
  const auto rows = static_cast<size_t>(w.there.rows);
  const auto cols = static_cast<size_t>(w.there.panels.layout.cols);
  const size_t heads = static_cast<size_t>(w.there.panels.rows) / rows;
  std::vector<float> found;
  std::vector<double> expected;
  std::vector<double> allowed;
  for (size_t part = 0; part < x.size() / x_stride; ++part) {  // of a token and head
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      double magnitude = 0;
      for (size_t k = 0; k < cols; ++k) {
        const double term = double{w.host.values[(part % heads * rows + r) * cols + k]} *
                            double{x[part * x_stride + k]} * double{w.there.panels.scale};
        sum += term;
        magnitude += std::abs(term);
      }
      found.push_back(y[part * y_stride + r]);
      expected.push_back(sum);
      allowed.push_back(magnitude * relative + 1e-30);
    }
  }
  EXPECT_TRUE(testing::within(found, expected, allowed));
}

/// `count` floats, or bf16 values, that lie on the GPU.
std::vector<float> read(const float* there, int64_t count, bool is_bf16) {
  const auto n = static_cast<size_t>(count);
  std::vector<float> values(n);
  if (!is_bf16) {
    cuda::check(cudaMemcpy(values.data(), there, n * sizeof(float), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }
  std::vector<uint16_t> halves(n);
  cuda::check(cudaMemcpy(halves.data(), there, n * sizeof(uint16_t), cudaMemcpyDeviceToHost), "cudaMemcpy");
  std::ranges::transform(halves, values.begin(), bf16_to_f32);
  return values;
}

/// As bf16, or floats, to the GPU.
void write(std::span<const float> values, float* there, bool as_bf16) {
  std::vector<uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(), f32_to_bf16);
  cuda::copy_to_gpu(there, as_bf16 ? std::as_bytes(std::span(halves)) : std::as_bytes(values), "cudaMemcpy");
}

class CudaHeadProductsTest : public testing::OnGpu {
 protected:
  CudaHeadProductsTest() {
    config_.heads = 3;
    config_.d_latent = 192;
    config_.d_nope = 64;  // a block of every type
    config_.d_rope = 8;
    config_.d_value = 32;
  }

  void check(DType type, int64_t n, CacheType cache) {
    const Heads key_b(type, config_.heads, config_.d_latent, config_.d_nope, random_);
    const Heads value_b(type, config_.heads, config_.d_value, config_.d_latent, random_);
    CudaLayer layer;
    layer.key_b = key_b.there;
    layer.value_b = value_b.there;
    const RuntimeOptions options{.max_batch = kMany, .tile = kMany};
    const CudaProducts products(product_shape(config_, options));
    const CudaActivationShape shape = activation_shape(config_, options, 16);
    DeviceLayout counted;
    static_cast<void>(CudaActivations(shape, counted));
    CudaArena arena(counted.taken());
    const CudaActivations buffers(shape, arena);
    const CudaHeadProducts products_of_heads({config_, layer, buffers, products}, n, cache, stream());
    const bool rounded = n > kMostExactTokens && cache != CacheType::kF32;
    ASSERT_EQ(products_of_heads.type() == cuda::FloatType::kBf16, rounded);
    check_absorb(products_of_heads, key_b, buffers.absorbed_query, n, rounded);
    check_expand(products_of_heads, value_b, buffers.attended, n, rounded);
  }

  static double relative(bool rounded) { return rounded ? 0x1p-6 : 1e-5; }

  void check_absorb(const CudaHeadProducts& products, const Heads& key_b, const float* absorbed_there,
                    int64_t n, bool rounded) {
    const std::vector<float> queries = random_.normal(n * config_.heads * config_.d_head());
    const cuda::DeviceBuffer<float> there(queries);
    products.absorb(there.data(), n, stream());
    cuda::check(cudaStreamSynchronize(stream()), "absorb");
    const std::vector<float> absorbed = read(absorbed_there, n * config_.heads * config_.d_cache(), rounded);
    const auto from = static_cast<size_t>(config_.d_head());
    const auto to = static_cast<size_t>(config_.d_cache());
    expect_products(key_b, queries, from, absorbed, to, relative(rounded));
    for (size_t part = 0; part < absorbed.size() / to; ++part) {
      for (size_t i = 0; i < static_cast<size_t>(config_.d_rope); ++i) {
        const float turned = queries[part * from + static_cast<size_t>(config_.d_nope) + i];
        ASSERT_EQ(absorbed[part * to + static_cast<size_t>(config_.d_latent) + i],
                  rounded ? bf16_to_f32(f32_to_bf16(turned)) : turned);
      }
    }
  }

  void check_expand(const CudaHeadProducts& products, const Heads& value_b, float* attended_there, int64_t n,
                    bool rounded) {
    std::vector<float> attended = random_.normal(n * config_.heads * config_.d_latent);
    std::ranges::transform(attended, attended.begin(),
                           [](float value) { return bf16_to_f32(f32_to_bf16(value)); });
    write(attended, attended_there, rounded);
    const cuda::DeviceBuffer<float> values(n * config_.heads * config_.d_value);
    products.expand(values.data(), n, stream());
    expect_products(value_b, attended, static_cast<size_t>(config_.d_latent), values.to_host(stream()),
                    static_cast<size_t>(config_.d_value), relative(rounded));
  }

  ModelConfig config_ = synth::config_of(synth::parse_model_spec("synth:tiny,dense=1,moe=0"));
};

TEST_F(CudaHeadProductsTest, FewTokensAndFloatCachesExactly) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kBF16}) {
    check(type, 1, CacheType::kBF16);
    check(type, 8, CacheType::kFp8);
    check(type, kMany, CacheType::kF32);
  }
}

TEST_F(CudaHeadProductsTest, ManyTokensThroughBf16) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kBF16, DType::kNVFP4}) {
    check(type, 9, CacheType::kBF16);
    check(type, kMany, CacheType::kFp8Int8);
  }
}

// Where a head's rows do not fill their panels its matrices do not follow each other.
TEST_F(CudaHeadProductsTest, OddHeadsExactly) {
  SCOPED_TRACE(random_.describe());
  config_.d_value = 24;
  const RuntimeOptions options{.max_batch = kMany, .tile = kMany};
  const CudaProducts products(product_shape(config_, options));
  DeviceLayout counted;
  const CudaActivations buffers(activation_shape(config_, options, 16), counted);
  const CudaLayer layer;
  EXPECT_EQ(CudaHeadProducts({config_, layer, buffers, products}, kMany, CacheType::kBF16, stream()).type(),
            cuda::FloatType::kF32);
}

}  // namespace
}  // namespace sluice
