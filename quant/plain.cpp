// Element by element conversion of plain rows.
#include "quant/plain.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdint>
#include <cstring>

#include "quant/base/number.h"

namespace sluice::quant {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian and read in place");

constexpr float kLargestF16 = 65504.0F;

template <typename Decode>
void decode_halves(std::span<const std::byte> elements, std::span<float> values, Decode decode) {
  assert(elements.size() == values.size() * sizeof(uint16_t));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, elements.data() + i * sizeof(bits), sizeof(bits));
    values[i] = decode(bits);
  }
}

template <typename Encode>
void encode_halves(std::span<const float> values, std::span<std::byte> elements, Encode encode) {
  assert(elements.size() == values.size() * sizeof(uint16_t));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = encode(values[i]);
    std::memcpy(elements.data() + i * sizeof(bits), &bits, sizeof(bits));
  }
}

}  // namespace

void dequantize_f32(std::span<const std::byte> elements, std::span<float> values) {
  assert(elements.size() == values.size_bytes());
  std::copy(elements.begin(), elements.end(), std::as_writable_bytes(values).begin());
}

void dequantize_f16(std::span<const std::byte> elements, std::span<float> values) {
  decode_halves(elements, values, f16_to_f32);
}

void dequantize_bf16(std::span<const std::byte> elements, std::span<float> values) {
  decode_halves(elements, values, bf16_to_f32);
}

void quantize_f32(std::span<const float> values, std::span<std::byte> elements) {
  assert(elements.size() == values.size_bytes());
  const std::span<const std::byte> bytes = std::as_bytes(values);
  std::copy(bytes.begin(), bytes.end(), elements.begin());
}

void quantize_f16(std::span<const float> values, std::span<std::byte> elements) {
  encode_halves(values, elements,
                [](float value) { return f32_to_f16(std::clamp(value, -kLargestF16, kLargestF16)); });
}

void quantize_bf16(std::span<const float> values, std::span<std::byte> elements) {
  encode_halves(values, elements, f32_to_bf16);
}

}  // namespace sluice::quant
