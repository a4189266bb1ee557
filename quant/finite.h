// Finds infinities and NaNs, which no weight may be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "quant/dtype.h"

namespace sluice::quant {

/// Index of the first value that is infinite or NaN; empty when all are finite.
std::optional<int64_t> find_non_finite(std::span<const float> values);

/// Index of the first element that decodes to something infinite or NaN, or for a block type the first
/// element of the first block that holds one; empty when all are finite. Reads only the scales of a block
/// where they decide. `blocks` are whole blocks of a type that can_dequantize().
std::optional<int64_t> find_non_finite(DType dtype, std::span<const std::byte> blocks);

}  // namespace sluice::quant
