// The tensor types a GGUF file can hold: one table of names, ids and block sizes (spec: docs/formats.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace sluice::quant {

/// Values are the ids stored in GGUF files.
enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ5_0 = 6,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kMXFP4 = 39,
  kNVFP4 = 40,
};

/// One more than the largest id: the size of a table indexed by DType.
inline constexpr uint32_t kDTypeIdCount = 41;

struct DTypeInfo {
  DType dtype;
  std::string_view name;       // as llama.cpp prints it: "Q8_0", "BF16"
  int64_t elements_per_block;  // 1, 32, 64 or 256
  int64_t bytes_per_block;
};

/// Every type known to the project, in id order.
std::span<const DTypeInfo> all_dtypes();
/// Asserts that `dtype` is one of the enumerators.
const DTypeInfo& dtype_info(DType dtype);
/// The type with this GGUF id; empty when the project does not know it.
std::optional<DType> dtype_from_id(uint32_t id);
/// Case-insensitive; "q8_0", "nvfp4". Empty when unknown.
std::optional<DType> dtype_from_name(std::string_view name);
/// Bytes of `elements` consecutive elements. `elements` must be a multiple of the block's and non-negative.
int64_t row_bytes(DType dtype, int64_t elements);

}  // namespace sluice::quant
