// Reads GGUF files, version 2 and 3, one file or a set of shards. Every field is validated before it is used;
// tensor bytes stay in the mapping. Layout: docs/formats.md.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/anonymous_memory.h"
#include "quant/gguf_value.h"
#include "quant/mapped_file.h"
#include "quant/tensor.h"

namespace sluice::quant {

/// What a header says, with tensor offsets checked against `file_bytes`. Used by GgufFile and by the fuzzer.
struct GgufHeader {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<Tensor> tensors;  // file order; `bytes` set
};

/// Parses one file's bytes. `source` names it in errors. Throws Error.
GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& source);

/// An opened model file, or what one would hold. Owns the memory that its tensors point into.
class GgufFile {
 public:
  /// A file that exists in memory only, under the name `path`: version 3, one shard. The tensors point into
  /// `memory`, or nowhere. Names must differ.
  static GgufFile in_memory(std::filesystem::path path, GgufMetadata metadata, std::vector<Tensor> tensors,
                            AnonymousMemory memory);

  /// `path` is a single file or shard 1 of N ("name-00001-of-000NN.gguf"; it may hold metadata only); the
  /// other shards are found beside it. Throws Error naming the file, key or tensor.
  static GgufFile open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] uint32_t version() const { return version_; }
  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }
  /// All shards' tensors, in shard and file order.
  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  /// Null when there is none of this name.
  [[nodiscard]] const Tensor* find(std::string_view name) const;
  /// The file that holds the tensor: path() or another shard.
  [[nodiscard]] const std::filesystem::path& path_of(const Tensor& tensor) const;
  /// The mappings that tensors point into, for readers that go to the files themselves; none of a file that
  /// is made in memory.
  [[nodiscard]] std::span<const MappedFile> shards() const { return shards_; }
  [[nodiscard]] int64_t shard_count() const {
    return shards_.empty() ? 1 : static_cast<int64_t>(shards_.size());
  }

 private:
  std::filesystem::path path_;
  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<MappedFile> shards_;
  AnonymousMemory memory_;
};

}  // namespace sluice::quant
