// What rows decode to, and that a row depends on nothing but seed, name and number.
#include "engine/synth/row_generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "engine/synth/fill.h"
#include "quant/block_codec.h"
#include "support/random_tensors.h"

namespace sluice::synth {
namespace {

using quant::DType;
using testing::Random;

constexpr DType kEveryType[] = {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kNVFP4, DType::kQ4_K};

quant::Tensor tensor_of(DType dtype, int64_t cols, int64_t rows, const std::string& name = "blk.3.t.weight") {
  quant::Tensor tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.n_dims = 2;
  tensor.ne = {cols, rows, 1, 1};
  return tensor;
}

std::vector<std::byte> made(const RowGenerator& generator, const quant::Tensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.data_bytes()));
  generator.write(0, bytes);
  return bytes;
}

std::vector<float> decoded(const quant::Tensor& tensor, std::span<const std::byte> bytes) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  quant::dequantize_row(tensor.dtype, bytes, values);
  return values;
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments_of(std::span<const float> values) {
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const auto n = static_cast<double>(values.size());
  return {sum / n, std::sqrt(squares / n - sum / n * (sum / n))};
}

class RowGeneratorTest : public ::testing::Test {
 protected:
  uint64_t seed() { return static_cast<uint64_t>(random_.integer(0, INT64_MAX)); }

  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
};

TEST_F(RowGeneratorTest, ValuesHaveTheDeviationAskedFor) {
  for (const DType dtype : kEveryType) {
    for (const int64_t cols : {37, 256, 512, 1536, 2048, 7168, 16384, 18432}) {
      if (cols % quant::dtype_info(dtype).elements_per_block != 0) continue;
      // In NVFP4 longer rows have a second-level scale (recipe_test).
      if (dtype == DType::kNVFP4 && cols > 7168) continue;
      SCOPED_TRACE(std::string(quant::dtype_info(dtype).name) + " " + std::to_string(cols));
      const quant::Tensor tensor = tensor_of(dtype, cols, 400000 / cols);
      const float wanted = 1.0F / std::sqrt(static_cast<float>(cols));
      const RowGenerator generator(tensor, {.mean = 0.0F, .deviation = wanted}, seed());
      const std::vector<float> values = decoded(tensor, made(generator, tensor));
      EXPECT_TRUE(
          std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
      const Moments found = moments_of(values);
      EXPECT_NEAR(found.deviation / static_cast<double>(wanted), 1.0, 0.1);
      // Some 400,000 values: six deviations of their mean, and what rounding dmin to f16 may add.
      EXPECT_LT(std::fabs(found.mean), 0.012 * static_cast<double>(wanted));
    }
  }
}

TEST_F(RowGeneratorTest, FloatsHaveTheMeanAskedFor) {
  const quant::Tensor tensor = tensor_of(DType::kF32, 100001, 1);
  const RowGenerator generator(tensor, {.mean = 1.0F, .deviation = 0.1F}, seed());
  const Moments found = moments_of(decoded(tensor, made(generator, tensor)));
  EXPECT_NEAR(found.mean, 1.0, 0.003);
  EXPECT_NEAR(found.deviation, 0.1, 0.002);
}

TEST_F(RowGeneratorTest, NoBlockIsConstantAndNoRowComesTwice) {
  for (const DType dtype : kEveryType) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    const quant::Tensor tensor = tensor_of(dtype, 256, 1000);
    const RowGenerator generator(tensor, {.mean = 0.0F, .deviation = 0.01F}, seed());
    const std::vector<std::byte> bytes = made(generator, tensor);
    const std::vector<float> values = decoded(tensor, bytes);
    for (size_t first = 0; first < values.size(); first += 16) {  // the smallest block with a scale
      const std::set<float> different(values.begin() + static_cast<ptrdiff_t>(first),
                                      values.begin() + static_cast<ptrdiff_t>(first + 16));
      ASSERT_GT(different.size(), 3U) << "elements " << first << " to " << first + 15;
    }
    std::set<std::string> rows;
    const size_t row_bytes = bytes.size() / 1000;
    for (size_t row = 0; row < 1000; ++row) {
      rows.emplace(reinterpret_cast<const char*>(&bytes[row * row_bytes]), row_bytes);
    }
    EXPECT_EQ(rows.size(), 1000U);
  }
}

// Kernels that take magnitudes of signed bytes have no place for +128, and no quantizer makes -128.
TEST_F(RowGeneratorTest, Q8CodesAreSymmetric) {
  const quant::Tensor tensor = tensor_of(DType::kQ8_0, 1024, 64);
  const std::vector<std::byte> bytes =
      made(RowGenerator(tensor, {.mean = 0.0F, .deviation = 1.0F}, seed()), tensor);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i % 34 < 2) continue;  // the scale
    ASSERT_NE(std::to_integer<int>(bytes[i]), 0x80) << i;
  }
}

TEST_F(RowGeneratorTest, PiecesEqualTheWholeWhateverTheThreads) {
  for (const DType dtype : kEveryType) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    const quant::Tensor tensor = tensor_of(dtype, 512, 3001);
    const RowGenerator generator(tensor, {.mean = 0.0F, .deviation = 0.04F}, seed());
    const std::vector<std::byte> whole = made(generator, tensor);
    const int64_t row_bytes = quant::row_bytes(dtype, 512);
    for (const int64_t threads : {1, 2, 5}) {
      offload::Workers workers(threads);
      const int64_t first = random_.integer(0, 3000);
      const int64_t rows = random_.integer(1, 3001 - first);
      std::vector<std::byte> piece(static_cast<size_t>(rows * row_bytes));
      fill_rows(generator, first, row_bytes, piece, workers);
      EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + first * row_bytes))
          << threads << " threads, rows " << first << " to " << first + rows - 1;
    }
  }
}

TEST_F(RowGeneratorTest, SeedsAndNamesDiffer) {
  const uint64_t one = seed();
  const Distribution distribution{.mean = 0.0F, .deviation = 0.04F};
  const quant::Tensor tensor = tensor_of(DType::kQ8_0, 512, 4);
  const quant::Tensor other = tensor_of(DType::kQ8_0, 512, 4, "blk.4.t.weight");
  const std::vector<std::byte> bytes = made(RowGenerator(tensor, distribution, one), tensor);
  EXPECT_TRUE(bytes == made(RowGenerator(tensor, distribution, one), tensor));
  EXPECT_FALSE(bytes == made(RowGenerator(tensor, distribution, one + 1), tensor));
  EXPECT_FALSE(bytes == made(RowGenerator(other, distribution, one), other));
}

// Files of a seed must stay what they are from version to version.
TEST(RowGenerator, BytesOfASeedAreFixed) {
  const quant::Tensor tensor = tensor_of(DType::kQ8_0, 32, 1);
  const std::vector<std::byte> bytes =
      made(RowGenerator(tensor, {.mean = 0.0F, .deviation = 0.1F}, 1), tensor);
  std::string hex;
  for (const std::byte byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    hex += kDigits[std::to_integer<size_t>(byte) >> 4U];
    hex += kDigits[std::to_integer<size_t>(byte) & 15U];
  }
  EXPECT_EQ(hex, "4c111525abf51b2da32bddcd4fa11381e3231bb3c9bbc9a7a767d1d183a953c525c7");
}

}  // namespace
}  // namespace sluice::synth
