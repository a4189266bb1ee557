// Reads safetensors: a single file, or a directory of shards with or without an index (published indexes have
// been wrong, so tensors are always enumerated from the files' own headers). Layout: docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/mapped_file.h"

namespace sluice::quant {

/// Element types that checkpoints hold.
enum class SafetensorsType {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};
/// "BF16", "F8_E4M3" as in the header.
std::string_view safetensors_type_name(SafetensorsType type);
int64_t safetensors_type_bytes(SafetensorsType type);

struct SafetensorsTensor {
  std::string name;
  SafetensorsType dtype;
  std::vector<int64_t> shape;        // outermost first, as in the header
  std::span<const std::byte> bytes;  // in the mapping
};

/// Parses one file's bytes: header length, JSON, types, shapes, offsets without gap or overlap, end of file.
/// `source` names it in errors. Throws Error.
std::vector<SafetensorsTensor> parse_safetensors(std::span<const std::byte> file, const std::string& source);

/// A checkpoint: one .safetensors file, or every *.safetensors file of a directory.
class SafetensorsCheckpoint {
 public:
  /// Throws Error. When `model.safetensors.index.json` is present, each file that it names must exist and
  /// each tensor that it places must be in that file; tensors it omits are still found.
  static SafetensorsCheckpoint open(const std::filesystem::path& path);

  /// In name order.
  [[nodiscard]] const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const {
    return tensors_;
  }
  /// Null when absent.
  [[nodiscard]] const SafetensorsTensor* find(std::string_view name) const;

 private:
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
  std::vector<MappedFile> files_;
};

/// Decodes F32, F16, BF16 and F64 elements to float. values.size() must match. Throws Error for other types.
void to_f32(const SafetensorsTensor& tensor, std::span<float> values);

}  // namespace sluice::quant
