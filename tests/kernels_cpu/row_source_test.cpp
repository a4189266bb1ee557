// Rows of a cache: what is stored is read back within the format's rounding.
#include "kernels_cpu/row_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels_cpu/kernels_cpu.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kRope = 64;

/// A row as it comes back, from the second of two places in a cache.
std::vector<float> stored(RowFormat format, const std::vector<float>& row, int64_t latent) {
  const Kernels& kernels = kernels_for(chosen_isa());
  const auto cols = static_cast<int64_t>(row.size());
  const int64_t bytes = row_bytes(format, cols, latent);
  std::vector<std::byte> cache(static_cast<size_t>(2 * bytes), std::byte{0xFF});
  write_row(kernels, format, row, latent, cache.data() + bytes);
  std::vector<float> out(row.size(), std::numeric_limits<float>::quiet_NaN());
  CacheRows{format, cache.data(), cols, bytes, latent}.read(kernels, 1, out.data());
  EXPECT_TRUE(
      std::all_of(cache.begin(), cache.begin() + bytes, [](std::byte b) { return b == std::byte{0xFF}; }));
  return out;
}

TEST(RowSource, RowsOfTheRealShapeHaveThePublishedSizes) {
  EXPECT_EQ(row_bytes(RowFormat::kFp8, 512 + kRope, 512), 656);
  EXPECT_EQ(row_bytes(RowFormat::kBF16, 512 + kRope, 512), 1152);
  EXPECT_EQ(row_bytes(RowFormat::kInt8, 128, 0), 132);
}

TEST(RowSource, FloatsComeBackAsTheyWere) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<float> row = random.normal(101);
  EXPECT_TRUE(testing::identical(stored(RowFormat::kF32, row, 0), row));
}

TEST(RowSource, Fp8LatentsAreWithinAnE4m3Step) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const int64_t latent : {128, 256, 512}) {
    for (const float size : {1.0F, 1e-12F, 3e4F, 1e30F}) {
      std::vector<float> row = random.normal(latent + kRope, size);
      row[3] = 0.0F;
      row[static_cast<size_t>(latent - 1)] *= 300.0F;  // one group with a value far larger than the others
      const std::vector<float> out = stored(RowFormat::kFp8, row, latent);
      for (int64_t g = 0; g < latent / kFp8Group; ++g) {
        float largest = 1e-4F;
        for (int64_t i = g * kFp8Group; i < (g + 1) * kFp8Group; ++i) {
          largest = std::max(largest, std::abs(row[static_cast<size_t>(i)]));
        }
        // Half a step: 2^-4 of a normal value; of e4m3's subnormals 2^-10 of the scale, which is at most
        // 2 / 448 of the largest.
        for (int64_t i = g * kFp8Group; i < (g + 1) * kFp8Group; ++i) {
          const float x = row[static_cast<size_t>(i)];
          const double allowed =
              std::max(std::abs(double{x}) * 0x1p-4, double{largest} * (2.0 / 448) * 0x1p-10);
          ASSERT_NEAR(out[static_cast<size_t>(i)], x, allowed) << latent << ' ' << size << " at " << i;
        }
      }
      for (int64_t i = latent; i < latent + kRope; ++i) {
        const float x = row[static_cast<size_t>(i)];
        ASSERT_EQ(out[static_cast<size_t>(i)], bf16_to_f32(f32_to_bf16(x))) << i;
      }
    }
  }
}

TEST(RowSource, Int8KeysAreWithinHalfAStep) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const float size : {1.0F, 1e-20F, 1e30F}) {
    const std::vector<float> row = random.normal(128, size);
    const std::vector<float> out = stored(RowFormat::kInt8, row, 0);
    float largest = 0;
    for (const float x : row) largest = std::max(largest, std::abs(x));
    for (size_t i = 0; i < row.size(); ++i) {
      ASSERT_NEAR(out[i], row[i], 0.5001 * double{largest} / 127) << size << " at " << i;
    }
  }
}

TEST(RowSource, ZerosComeBackAsZeros) {
  const std::vector<float> zeros(128 + kRope, 0.0F);
  EXPECT_EQ(stored(RowFormat::kFp8, zeros, 128), zeros);
  EXPECT_EQ(stored(RowFormat::kInt8, zeros, 0), zeros);
}

}  // namespace
}  // namespace sluice::cpu
