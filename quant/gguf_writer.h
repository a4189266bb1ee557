// Writes one GGUF v3 file: declare metadata and tensors, then give each tensor's bytes in the declared order.
// The file is written aside and renamed when complete, so nobody ever sees half of one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quant/base/output_file.h"
#include "quant/gguf_value.h"
#include "quant/tensor.h"

namespace sluice::quant {

class GgufWriter {
 public:
  /// Tensors' `bytes` are ignored here: only names, types and shapes are declared. Writes the header at once.
  /// Data is aligned to 32 bytes, or to `general.alignment` where the metadata says so. Throws Error when the
  /// path cannot be written, a key is empty, a name is too long (>= 64 bytes) or appears twice, or a shape
  /// does not fit its type.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<Tensor> tensors);

  /// Appends bytes of the current tensor; a tensor may come in several pieces. Alignment padding is added
  /// between tensors. Throws Error when the disk is full or more bytes come than declared.
  void write(std::span<const std::byte> bytes);

  /// Checks that every tensor is complete, syncs and renames. Without it the destructor removes the partial
  /// file.
  void finish();

 private:
  OutputFile file_;
  std::vector<Tensor> tensors_;
  std::string source_;     // the path, for errors
  int64_t alignment_ = 0;  // bytes
  size_t current_ = 0;     // tensor being written
  int64_t written_ = 0;    // bytes of it so far
};

}  // namespace sluice::quant
