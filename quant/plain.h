// Rows of unquantized elements: F32, F16 and BF16, little endian.
#pragma once

#include <cstddef>
#include <span>

namespace sluice::quant {

/// Decode values.size() elements. Sizes must match (4 or 2 bytes an element); no alignment is required.
void dequantize_f32(std::span<const std::byte> elements, std::span<float> values);
void dequantize_f16(std::span<const std::byte> elements, std::span<float> values);
void dequantize_bf16(std::span<const std::byte> elements, std::span<float> values);

/// Encode, to nearest with ties to even. F16 saturates at +-65504 instead of becoming infinite.
void quantize_f32(std::span<const float> values, std::span<std::byte> elements);
void quantize_f16(std::span<const float> values, std::span<std::byte> elements);
void quantize_bf16(std::span<const float> values, std::span<std::byte> elements);

}  // namespace sluice::quant
