// Decoded rows equal quant::dequantize_row bit for bit, for every type, any bytes and any alignment.
#include <algorithm>

#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

using quant::DType;

class Dequantize : public EveryIsa {
 protected:
  /// Decodes n elements of random bytes that start `offset` bytes into a buffer and compares.
  void check(DType dtype, int64_t n, int64_t offset) {
    SCOPED_TRACE(random_.describe());
    SCOPED_TRACE(::testing::Message()
                 << quant::dtype_info(dtype).name << ", " << n << " elements, offset " << offset);
    const auto size = static_cast<size_t>(quant::row_bytes(dtype, n));
    const std::vector<std::byte> buffer = random_.bytes(static_cast<int64_t>(size) + offset);
    const std::span<const std::byte> blocks = std::span(buffer).subspan(static_cast<size_t>(offset));
    std::vector<float> expected(static_cast<size_t>(n));
    quant::dequantize_row(dtype, blocks, expected);
    constexpr float kGuard = 12345.0F;
    std::vector<float> actual(static_cast<size_t>(n) + 1, kGuard);
    const cpu::DequantizeRowFn decode = kernels_.dequantize_row[static_cast<size_t>(dtype)];
    ASSERT_NE(decode, nullptr);
    decode(blocks.data(), n, actual.data());
    EXPECT_EQ(actual.back(), kGuard);
    EXPECT_TRUE(identical(std::span(actual).first(expected.size()), expected));
  }
};

TEST_P(Dequantize, RandomBytesOfEveryType) {
  for (const auto& info : quant::all_dtypes()) {
    if (!quant::can_dequantize(info.dtype)) {
      EXPECT_EQ(kernels_.dequantize_row[static_cast<size_t>(info.dtype)], nullptr) << info.name;
      continue;
    }
    const int64_t block = info.elements_per_block;
    for (const int64_t n : {block, 2 * block, 3 * block, int64_t{1536}, int64_t{7168}}) {
      check(info.dtype, n, 0);
      check(info.dtype, n, random_.integer(1, 63));
    }
  }
}

TEST_P(Dequantize, PlainTypesOfAnyLength) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t n = 0; n < 70; ++n) {
      check(dtype, n, n % 5);
    }
  }
}

/// Every scale byte of the two formats whose scales are looked up or assembled from bits.
TEST_P(Dequantize, EveryByteScale) {
  for (int scale = 0; scale < 256; ++scale) {
    std::vector<std::byte> nvfp4 = random_.bytes(36);
    std::fill_n(nvfp4.begin(), 4, static_cast<std::byte>(scale));
    std::vector<std::byte> mxfp4 = random_.bytes(17);
    mxfp4[0] = static_cast<std::byte>(scale);
    for (const auto& [dtype, blocks] : {std::pair(DType::kNVFP4, nvfp4), std::pair(DType::kMXFP4, mxfp4)}) {
      std::vector<float> expected(static_cast<size_t>(quant::dtype_info(dtype).elements_per_block));
      std::vector<float> actual(expected.size());
      quant::dequantize_row(dtype, blocks, expected);
      kernels_.dequantize_row[static_cast<size_t>(dtype)](blocks.data(), static_cast<int64_t>(actual.size()),
                                                          actual.data());
      EXPECT_TRUE(identical(actual, expected)) << quant::dtype_info(dtype).name << " scale byte " << scale;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Dequantize, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
