// Infinities and NaNs are found, first one first, wherever they are.
#include "quant/finite.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quant/block_codec.h"
#include "support/error_text.h"
#include "support/non_finite.h"
#include "support/random_experts.h"
#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Finite, FindsTheFirstOfSeveral) {
  for (const int64_t size : {1, 255, 256, 257, 1000}) {
    std::vector<float> values(static_cast<size_t>(size), std::numeric_limits<float>::max());
    EXPECT_FALSE(find_non_finite(values));
    for (int64_t i = size - 1; i >= 0; --i) {
      values[static_cast<size_t>(i)] = i % 3 == 0 ? std::nanf("") : (i % 3 == 1 ? kInfinity : -kInfinity);
      ASSERT_EQ(find_non_finite(values), i);
    }
  }
  EXPECT_FALSE(find_non_finite(std::span<const float>{}));
}

TEST(Finite, PlainTypesPointAtTheElement) {
  std::vector<std::byte> halves(1000);
  EXPECT_FALSE(find_non_finite(DType::kF16, halves));
  halves[643] = std::byte{0x7C};  // +infinity as F16, a large number as BF16
  EXPECT_EQ(find_non_finite(DType::kF16, halves), 321);
  EXPECT_FALSE(find_non_finite(DType::kBF16, halves));
  halves[800] = std::byte{0x80};
  halves[801] = std::byte{0xFF};
  EXPECT_EQ(find_non_finite(DType::kBF16, halves), 400);
}

// The answer by decoding everything, rounded down to its block.
std::optional<int64_t> by_decoding(DType dtype, std::span<const std::byte> blocks, int64_t elements) {
  std::vector<float> values(static_cast<size_t>(elements));
  dequantize_row(dtype, blocks, values);
  const auto found = find_non_finite(values);
  const int64_t block = dtype_info(dtype).elements_per_block;
  return found ? std::optional(*found / block * block) : std::nullopt;
}

TEST(Finite, BlocksAgreeWithDecodingRandomBytes) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  constexpr int64_t kElements = 512;
  int found = 0;
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kQ4_K, DType::kQ5_K,
                            DType::kQ6_K, DType::kMXFP4, DType::kNVFP4}) {
    for (int trial = 0; trial < 300; ++trial) {
      std::vector<std::byte> blocks = random.bytes(row_bytes(dtype, kElements));
      // What is not finite by definition, whatever it decodes to, is left to the next test.
      for (size_t i = 0; dtype == DType::kMXFP4 && i < blocks.size(); i += 17) {
        blocks[i] = static_cast<std::byte>(random.integer(248, 254));
      }
      for (size_t i = 0; dtype == DType::kNVFP4 && i < blocks.size(); ++i) {
        if (i % 36 < 4 && (blocks[i] | std::byte{0x80}) == std::byte{0xFF}) blocks[i] = std::byte{0x7E};
      }
      const auto expected = by_decoding(dtype, blocks, kElements);
      ASSERT_EQ(find_non_finite(dtype, blocks), expected) << dtype_info(dtype).name;
      found += expected ? 1 : 0;
    }
  }
  EXPECT_GT(found, 100);
}

TEST(Finite, ScalesThatAreNaNByDefinition) {
  std::vector<std::byte> mxfp4(51);
  mxfp4[34] = std::byte{255};
  EXPECT_EQ(find_non_finite(DType::kMXFP4, mxfp4), 64);
  for (const std::byte scale : {std::byte{0x7F}, std::byte{0xFF}}) {
    for (size_t sub_block = 0; sub_block < 4; ++sub_block) {
      std::vector<std::byte> nvfp4(108, std::byte{0x7E});
      EXPECT_FALSE(find_non_finite(DType::kNVFP4, nvfp4));
      nvfp4[36 + sub_block] = scale;
      EXPECT_EQ(find_non_finite(DType::kNVFP4, nvfp4), 64);
    }
  }
}

TEST(Finite, EveryTypeIsFoundWithItsPlace) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const DType dtype : testing::weight_types()) {
    const int64_t block = dtype_info(dtype).elements_per_block;
    const int64_t cols = 512;
    std::vector<std::byte> rows(static_cast<size_t>(row_bytes(dtype, 5 * cols)));
    const auto check = [&] {
      require_finite("x", dtype, cols, rows, {.row = 32, .slice = 7});
      return 0;
    };
    EXPECT_NO_THROW(check());
    const int64_t at = random.integer(0, 5 * cols - 1);
    testing::plant_non_finite(dtype, rows, at, random);
    EXPECT_EQ(testing::error_text(check),
              fmt::format("x: expected finite weights, found infinity or NaN {} {{{}, {}, 7}}",
                          block > 1 ? "in the block at" : "at", at % cols / block * block, 32 + at / cols));
  }
}

}  // namespace
}  // namespace sluice::quant
