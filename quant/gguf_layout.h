// The rules of a GGUF file that its reader and its writer share: limits, alignment, tensor sizes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quant/gguf_value.h"
#include "quant/tensor.h"

namespace sluice::quant {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufOldestVersion = 2;
inline constexpr uint32_t kGgufVersion = 3;

// Limits of the format's readers.
inline constexpr uint64_t kGgufMaxStringBytes = uint64_t{1} << 30;
inline constexpr uint64_t kGgufMaxArrayElements = uint64_t{1} << 30;
inline constexpr size_t kGgufMaxNameBytes = 63;
inline constexpr uint32_t kGgufMaxDims = 4;

/// `general.alignment`, or 32 without that key. Throws Error unless it is a u32, a power of two and at
/// least 8.
int64_t gguf_alignment(const GgufMetadata& metadata);

/// `bytes` rounded up to a multiple of `alignment`. The result must fit int64_t.
constexpr int64_t padded_bytes(int64_t bytes, int64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

/// Checks the number of dimensions, that each is positive, ne0 a multiple of the type's block, and that
/// neither the elements nor their bytes overflow; returns the tensor's bytes. `subject` names the tensor in
/// the Error.
int64_t checked_tensor_bytes(const Tensor& tensor, const std::string& subject);

}  // namespace sluice::quant
