// Plain rows: bytes in the file's order, any alignment, saturation.
#include "quant/plain.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

template <size_t N>
std::array<std::byte, N> bytes_of(const uint8_t (&values)[N]) {
  std::array<std::byte, N> bytes;
  for (size_t i = 0; i < N; ++i) {
    bytes[i] = std::byte{values[i]};
  }
  return bytes;
}

TEST(Plain, DecodesLittleEndianElements) {
  std::array<float, 2> values;
  dequantize_f32(bytes_of({0x00, 0x00, 0xC0, 0x3F, 0x00, 0x00, 0x00, 0xC1}), values);
  EXPECT_EQ(values, (std::array{1.5F, -8.0F}));
  dequantize_f16(bytes_of({0x00, 0x3E, 0x01, 0x80}), values);
  EXPECT_EQ(values, (std::array{1.5F, -0x1p-24F}));
  dequantize_bf16(bytes_of({0xC0, 0x3F, 0x00, 0xC1}), values);
  EXPECT_EQ(values, (std::array{1.5F, -8.0F}));
}

TEST(Plain, EncodesToTheNearest) {
  std::array<std::byte, 4> halves;
  quantize_f16(std::array{1.0F + 0x1p-11F, 1.0F + 3 * 0x1p-11F}, halves);  // ties: to the even neighbour
  EXPECT_EQ(halves, bytes_of({0x00, 0x3C, 0x02, 0x3C}));
  quantize_bf16(std::array{1.0F + 0x1p-8F, 1.0F + 3 * 0x1p-8F}, halves);
  EXPECT_EQ(halves, bytes_of({0x80, 0x3F, 0x82, 0x3F}));
}

TEST(Plain, F16Saturates) {
  std::array<std::byte, 4> halves;
  quantize_f16(std::array{1e9F, -65530.0F}, halves);
  EXPECT_EQ(halves, bytes_of({0xFF, 0x7B, 0xFF, 0xFB}));
}

TEST(Plain, F32IsBitExactAtOddAddresses) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<float> values = random.normal(100);
  std::vector<std::byte> bytes(401);
  const auto odd = std::span(bytes).subspan(1);
  std::vector<float> back(100);
  quantize_f32(values, odd);
  dequantize_f32(odd, back);
  EXPECT_EQ(back, values);
}

}  // namespace
}  // namespace sluice::quant
