// Infinities and NaNs put into weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "quant/dtype.h"
#include "support/random_tensors.h"

namespace sluice::testing {

/// Makes the element infinite or NaN; of a block type, one of the scales of its block.
void plant_non_finite(quant::DType dtype, std::span<std::byte> blocks, int64_t element, Random& random);

/// The same in a tensor of a GGUF file of one shard.
void plant_non_finite(const std::filesystem::path& file, const std::string& tensor, int64_t element,
                      Random& random);

}  // namespace sluice::testing
