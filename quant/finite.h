// Finds infinities and NaNs, which no weight may be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "quant/dtype.h"

namespace sluice::quant {

/// Index of the first value that is infinite or NaN; empty when all are finite.
std::optional<int64_t> find_non_finite(std::span<const float> values);

/// Index of the first element that decodes to something infinite or NaN, or for a block type the first
/// element of the first block that holds one; empty when all are finite. A scale that its format calls NaN
/// counts whatever it decodes to: 255 of MXFP4, 0x7F of NVFP4. Reads only the scales of a block where they
/// decide. `blocks` are whole blocks of a type that can_dequantize().
std::optional<int64_t> find_non_finite(DType dtype, std::span<const std::byte> blocks);

/// Where a piece of a tensor begins, in the order of its shape.
struct TensorPlace {
  int64_t row = 0;    // of the slice
  int64_t slice = 0;  // along the third dimension: an expert, a head
};

/// `blocks` are rows of `cols` elements from `first` on, all of one slice of the tensor that `subject` names.
/// Throws Error "SUBJECT: expected finite weights, found infinity or NaN at {column, row, slice}".
void require_finite(const std::string& subject, DType dtype, int64_t cols, std::span<const std::byte> blocks,
                    TensorPlace first);

}  // namespace sluice::quant
