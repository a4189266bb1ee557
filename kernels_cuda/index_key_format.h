// Formats of the indexer's cached keys in device memory. Without CUDA.
#pragma once

#include <cstdint>

namespace sluice::cuda {

enum class IndexKeyFormat {
  kF32,   // d_index floats: a plain float32 kernel
  kBf16,  // d_index bf16; queries are split into two bf16 each, so they count with 16 bits
  kInt8,  // d_index int8 codes, and one float scale for each key in an array of its own; key = code * scale
};

/// Bytes of a key's values.
constexpr int64_t index_key_bytes(IndexKeyFormat format, int64_t d_index) {
  return d_index * (format == IndexKeyFormat::kF32 ? 4 : format == IndexKeyFormat::kBf16 ? 2 : 1);
}

}  // namespace sluice::cuda
