// Metadata values of a GGUF file, with the file's own types kept (readers of the format are strict about
// them).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sluice::quant {

/// Value type ids as stored.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// "u32", "string", "array".
std::string_view gguf_type_name(GgufType type);

/// An array's elements keep their type through the variant alternative. Arrays of arrays do not exist.
using GgufArray =
    std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                 std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>, std::vector<bool>,
                 std::vector<std::string>, std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>>;

using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, GgufArray, uint64_t, int64_t, double>;

GgufType gguf_type_of(const GgufValue& value);
/// Type of the elements.
GgufType gguf_element_type_of(const GgufArray& array);

struct GgufEntry {
  std::string key;
  GgufValue value;
};

/// Key-value pairs in file order, with typed look-up. Errors name `source` (the file) and the key.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  explicit GgufMetadata(std::string source) : source_(std::move(source)) {}

  /// Replaces the value of an existing key, else appends.
  void set(std::string_view key, GgufValue value);
  /// Null when absent.
  [[nodiscard]] const GgufValue* find(std::string_view key) const;
  [[nodiscard]] const std::vector<GgufEntry>& entries() const { return entries_; }
  [[nodiscard]] const std::string& source() const { return source_; }
  /// "SOURCE: key KEY", the subject of an Error about that key.
  [[nodiscard]] std::string subject_of(std::string_view key) const;

  /// Typed look-ups. `get` throws Error when the key is absent or holds another type; `get_or` only for
  /// another type. T is one of GgufValue's scalar alternatives or std::string.
  template <typename T>
  [[nodiscard]] T get(std::string_view key) const;
  template <typename T>
  [[nodiscard]] T get_or(std::string_view key, T fallback) const;
  /// Elements of an array key, T one of GgufArray's element types. Throws Error as `get` does.
  template <typename T>
  [[nodiscard]] const std::vector<T>& get_array(std::string_view key) const;
  /// Any non-negative integer type as int64_t: files differ in width for some keys. Throws as `get` does.
  [[nodiscard]] int64_t get_count(std::string_view key) const;
  [[nodiscard]] int64_t get_count_or(std::string_view key, int64_t fallback) const;

 private:
  std::string source_;
  std::vector<GgufEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace sluice::quant
