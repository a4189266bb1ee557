// GGUF files byte by byte, right or wrong, without the writer: the independent side of the reader's tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/gguf_value.h"

namespace sluice::testing {

/// The bytes of a number as they lie in memory.
template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}
/// Length as u64, then the text.
std::string raw_string(std::string_view text);
/// Element type, count, then `elements`, already packed.
std::string raw_array(quant::GgufType type, uint64_t count, std::string_view elements);

struct GgufTensorRecord {
  std::string name;
  std::vector<int64_t> ne;
  uint32_t type = 0;  // id as stored; 0 is F32
  std::string data;
  std::optional<uint64_t> offset;  // else where the format wants it
};

/// Fields to set, then build(). Whatever is not set follows the format.
struct GgufBuilder {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> n_tensors;
  std::optional<uint64_t> n_entries;
  uint64_t alignment = 32;
  std::vector<std::string> entries;
  std::vector<GgufTensorRecord> tensors;

  /// Adds key, type id and value, already packed.
  GgufBuilder& entry(std::string_view key, quant::GgufType type, std::string_view value);
  GgufBuilder& tensor(GgufTensorRecord record);
  /// A small F32 vector {n} holding 0, 1, 2...
  GgufBuilder& ramp(const std::string& name, int64_t n);
  /// The keys of shard `number` (from 0) of `count`, `n_tensors_in_all` only when given.
  GgufBuilder& shard(uint16_t number, uint16_t count, std::optional<int32_t> n_tensors_in_all);

  /// Counts, keys and tensor records, without padding.
  [[nodiscard]] std::string header() const;
  /// The whole file; the last tensor is not padded.
  [[nodiscard]] std::string build() const;
  void save(const std::filesystem::path& path) const;
};

/// The view that parsers take.
std::span<const std::byte> as_file(const std::string& bytes);
/// All of a file.
std::string load_text(const std::filesystem::path& path);

}  // namespace sluice::testing
