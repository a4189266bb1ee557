// Cache rows against their definition in double: norm, rope, rounding; codes and scales to the bit.
#include "kernels_cuda/cache_write.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels_cpu/hadamard.h"
#include "kernels_cpu/rope.h"
#include "kernels_cuda/base/buffer.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

constexpr int64_t kTokens = 5;
constexpr int64_t kRowsOfCache = 40;
constexpr int64_t kRope = 64;
constexpr float kEps = 1e-6F;

class CudaCacheWrite : public OnGpu {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (IsSkipped()) return;
    const std::vector<float> frequencies = cpu::yarn_frequencies({.dims = kRope});
    table_.resize(static_cast<size_t>(kRowsOfCache * kRope));
    for (int64_t p = 0; p < kRowsOfCache; ++p) {
      cpu::rope_angles(frequencies, p, std::span(table_).subspan(static_cast<size_t>(p * kRope), kRope));
    }
    table_there_ = cuda::DeviceBuffer<float>(table_);
    positions_there_ = cuda::DeviceBuffer<int32_t>(positions_);
  }
  [[nodiscard]] cuda::TokenPositions tokens() const {
    return {positions_there_.data(), table_there_.data(), kTokens};
  }
  [[nodiscard]] std::span<const float> angles(size_t token) const {
    return std::span(table_).subspan(static_cast<size_t>(positions_[token]) * kRope, kRope);
  }

  std::vector<int32_t> positions_ = {0, 39, 7, 8, 20};
  std::vector<float> table_;
  cuda::DeviceBuffer<float> table_there_;
  cuda::DeviceBuffer<int32_t> positions_there_;
};

/// The row that a token's projection becomes, before it is rounded.
std::vector<float> latent_row(std::span<const float> u, std::span<const float> gain,
                              std::span<const float> angles) {
  double squares = 0;
  for (size_t i = 0; i < gain.size(); ++i) squares += double{u[i]} * double{u[i]};
  const double rms = std::sqrt(squares / static_cast<double>(gain.size()) + double{kEps});
  std::vector<float> row;
  for (size_t i = 0; i < gain.size(); ++i)
    row.push_back(static_cast<float>(double{gain[i]} * double{u[i]} / rms));
  row.insert(row.end(), u.begin() + static_cast<std::ptrdiff_t>(gain.size()), u.end());
  cpu::rope_interleaved(angles, std::span(row).subspan(gain.size()));
  return row;
}

TEST_F(CudaCacheWrite, Latents) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t d : {128, 512}) {
    const std::vector<float> u = random_.normal(kTokens * (d + kRope + 4), 3.0F);
    const std::vector<float> gain = random_.normal(d);
    const cuda::DeviceBuffer<float> u_there(u);
    const cuda::DeviceBuffer<float> gain_there(gain);
    const int64_t groups = d / 128;
    const cuda::DeviceBuffer<float> f32(kRowsOfCache * (d + kRope));
    const cuda::DeviceBuffer<uint16_t> bf16(kRowsOfCache * (d + kRope));
    const int64_t fp8_bytes = d + 4 * groups + 2 * kRope;
    const cuda::DeviceBuffer<uint8_t> fp8(kRowsOfCache * fp8_bytes);
    f32.fill_bytes(0xFF, stream());
    fp8.fill_bytes(0xFF, stream());
    cuda::LatentWrite write{.u = u_there.data(),
                            .u_stride = d + kRope + 4,
                            .gain = gain_there.data(),
                            .eps = kEps,
                            .d_latent = d,
                            .d_rope = kRope,
                            .rows = f32.data(),
                            .row_bytes = 4 * (d + kRope)};
    cuda::write_latent_f32(write, tokens(), stream());
    write.rows = bf16.data();
    write.row_bytes = 2 * (d + kRope);
    cuda::write_latent_bf16(write, tokens(), stream());
    write.rows = fp8.data();
    write.row_bytes = fp8_bytes;
    cuda::write_latent_fp8(write, tokens(), stream());
    const std::vector<float> rows = f32.to_host(stream());
    const std::vector<uint16_t> halves = bf16.to_host(stream());
    const std::vector<uint8_t> bytes = fp8.to_host(stream());
    EXPECT_TRUE(std::isnan(rows[static_cast<size_t>(d + kRope)])) << "row 1 belongs to nobody";
    for (size_t t = 0; t < kTokens; ++t) {
      const auto at = static_cast<size_t>(positions_[t] * (d + kRope));
      const auto row = std::span(rows).subspan(at, static_cast<size_t>(d + kRope));
      const std::vector<float> expected = latent_row(
          std::span(u).subspan(t * static_cast<size_t>(d + kRope + 4), static_cast<size_t>(d + kRope)), gain,
          angles(t));
      EXPECT_TRUE(close(row, std::span<const float>(expected), 16 * kRounding, 0));
      // The other formats round that very row.
      for (size_t i = 0; i < row.size(); ++i) ASSERT_EQ(halves[at + i], f32_to_bf16(row[i])) << i;
      const uint8_t* packed = bytes.data() + positions_[t] * fp8_bytes;
      for (int64_t g = 0; g < groups; ++g) {
        float largest = 0;
        for (int64_t i = 0; i < 128; ++i)
          largest = std::max(largest, std::abs(row[static_cast<size_t>(g * 128 + i)]));
        float scale;
        std::memcpy(&scale, packed + d + 4 * g, 4);
        EXPECT_EQ(scale, std::exp2(std::ceil(std::log2(std::max(largest, 1e-4F) / 448.0F))));
        for (int64_t i = 0; i < 128; ++i) {
          ASSERT_EQ(packed[g * 128 + i], f32_to_e4m3(row[static_cast<size_t>(g * 128 + i)] / scale))
              << g << ' ' << i;
        }
      }
      uint16_t rope[kRope];
      std::memcpy(rope, packed + d + 4 * groups, sizeof(rope));
      for (size_t i = 0; i < kRope; ++i) ASSERT_EQ(rope[i], f32_to_bf16(row[static_cast<size_t>(d) + i]));
    }
  }
}

TEST_F(CudaCacheWrite, IndexKeys) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kDims = 128;
  std::vector<float> k = random_.normal(kTokens * kDims, 2.0F);
  const std::vector<float> gain = random_.normal(kDims);
  std::vector<float> bias = random_.normal(kDims);
  const cuda::DeviceBuffer<float> k_there(k);
  const cuda::DeviceBuffer<float> gain_there(gain);
  const cuda::DeviceBuffer<float> bias_there(bias);
  const cuda::IndexKeyWrite write{.k = k_there.data(),
                                  .k_stride = kDims,
                                  .gain = gain_there.data(),
                                  .bias = bias_there.data(),
                                  .eps = kEps,
                                  .d_index = kDims,
                                  .d_rope = kRope};
  const cuda::DeviceBuffer<float> f32(kRowsOfCache * kDims);
  const cuda::DeviceBuffer<uint16_t> bf16(kRowsOfCache * kDims);
  const cuda::DeviceBuffer<int8_t> codes(kRowsOfCache * kDims);
  const cuda::DeviceBuffer<float> scales(kRowsOfCache);
  cuda::write_index_keys_f32(write, tokens(), f32.data(), stream());
  cuda::write_index_keys_bf16(write, tokens(), bf16.data(), stream());
  cuda::write_index_keys_int8(write, tokens(), codes.data(), scales.data(), stream());
  const std::vector<float> rows = f32.to_host(stream());
  const std::vector<uint16_t> halves = bf16.to_host(stream());
  const std::vector<int8_t> got = codes.to_host(stream());
  const std::vector<float> got_scales = scales.to_host(stream());
  for (size_t t = 0; t < kTokens; ++t) {
    const float* x = k.data() + t * kDims;
    double mean = 0;
    for (size_t i = 0; i < kDims; ++i) mean += double{x[i]} / kDims;
    double variance = 0;
    for (size_t i = 0; i < kDims; ++i) variance += (double{x[i]} - mean) * (double{x[i]} - mean) / kDims;
    std::vector<float> expected;
    for (size_t i = 0; i < kDims; ++i) {
      expected.push_back(static_cast<float>(
          double{gain[i]} * (double{x[i]} - mean) / std::sqrt(variance + double{kEps}) + double{bias[i]}));
    }
    cpu::rope_half_split(angles(t), std::span(expected).first(kRope));
    const auto at = static_cast<size_t>(positions_[t] * kDims);
    const auto row = std::span(rows).subspan(at, kDims);
    EXPECT_TRUE(close(row, std::span<const float>(expected), 8 * kRounding, 40 * kRounding));
    for (size_t i = 0; i < kDims; ++i) ASSERT_EQ(halves[at + i], f32_to_bf16(row[i]));
    std::vector<float> rotated(row.begin(), row.end());
    cpu::hadamard(rotated);
    float largest = 0;
    for (const float v : rotated) largest = std::max(largest, std::abs(v));
    EXPECT_EQ(got_scales[static_cast<size_t>(positions_[t])], largest / 127.0F);
    for (size_t i = 0; i < kDims; ++i)
      ASSERT_EQ(got[at + i], std::nearbyint(rotated[i] * (127.0F / largest))) << i;
  }
}

TEST_F(CudaCacheWrite, ZerosHaveNoScale) {
  const cuda::DeviceBuffer<float> zeros(std::vector<float>(kTokens * 128, 0.0F));
  const cuda::IndexKeyWrite write{
      .k = zeros.data(), .k_stride = 128, .gain = zeros.data(), .bias = zeros.data()};
  const cuda::DeviceBuffer<int8_t> codes(kRowsOfCache * 128);
  const cuda::DeviceBuffer<float> scales(kRowsOfCache);
  codes.fill_bytes(7, stream());
  cuda::write_index_keys_int8(write, tokens(), codes.data(), scales.data(), stream());
  EXPECT_EQ(scales.to_host(stream())[39], 0.0F);
  EXPECT_EQ(codes.to_host(stream())[39 * 128 + 5], 0);
}

TEST_F(CudaCacheWrite, RefusesOtherShapes) {
  EXPECT_NE(error_text([&] { return cuda::write_latent_fp8({.d_latent = 100}, tokens(), stream()), 0; }),
            "no error");
  EXPECT_NE(error_text([&] { return cuda::write_latent_f32({.d_latent = 4096}, tokens(), stream()), 0; }),
            "no error");
  EXPECT_NE(error_text([&] {
              return cuda::write_index_keys_int8({.d_index = 96}, tokens(), nullptr, nullptr, stream()), 0;
            }),
            "no error");
}

}  // namespace
}  // namespace sluice::testing
