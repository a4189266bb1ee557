// Scalar reference encoding and decoding of every weight format, by type. Obvious, exact, and the oracle that
// the fast kernels are tested against. One file per format holds the block layout and its arithmetic.
#pragma once

#include <cstddef>
#include <span>

#include "quant/dtype.h"

namespace sluice::quant {

/// True for F32, F16, BF16, Q8_0, NVFP4, MXFP4, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K.
bool can_dequantize(DType dtype);
/// True for F32, F16, BF16, Q8_0, NVFP4, MXFP4, Q4_K, Q6_K.
bool can_quantize(DType dtype);

/// Decodes values.size() elements. blocks.size() must be row_bytes(dtype, values.size()).
/// Throws Error when the type cannot be decoded.
void dequantize_row(DType dtype, std::span<const std::byte> blocks, std::span<float> values);

/// Encodes by round-to-nearest with the scale of least squared error per block. Sizes as above. Non-finite
/// input is the caller's to refuse (see find_non_finite in finite.h). Throws Error when the type cannot be
/// encoded.
void quantize_row(DType dtype, std::span<const float> values, std::span<std::byte> blocks);

}  // namespace sluice::quant
