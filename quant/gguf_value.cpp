// Type names and typed look-ups of GGUF metadata.
#include "quant/gguf_value.h"

#include <fmt/format.h>

#include <array>
#include <cassert>
#include <limits>
#include <type_traits>
#include <utility>

#include "quant/base/error.h"

namespace sluice::quant {
namespace {

constexpr std::array<std::string_view, 13> kTypeNames{"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                      "bool", "string", "array", "u64", "i64", "f64"};

// GgufValue lists its alternatives in the order of the type ids, so an index is an id.
static_assert(std::variant_size_v<GgufValue> == kTypeNames.size());
// GgufArray leaves out "array": from there on an index is one less than the id.
static_assert(std::variant_size_v<GgufArray> == kTypeNames.size() - 1);

constexpr GgufType element_type_at(size_t index) {
  const auto id = static_cast<uint32_t>(index);
  return static_cast<GgufType>(id < static_cast<uint32_t>(GgufType::kArray) ? id : id + 1);
}

std::string type_text(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value)) {
    return fmt::format("array of {}", gguf_type_name(gguf_element_type_of(*array)));
  }
  return fmt::format("type {}", gguf_type_name(gguf_type_of(value)));
}

constexpr std::string_view kNoSuchKey = "no such key";

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  const auto id = static_cast<size_t>(type);
  assert(id < kTypeNames.size());
  return kTypeNames[id];
}

GgufType gguf_type_of(const GgufValue& value) {
  return static_cast<GgufType>(value.index());
}

GgufType gguf_element_type_of(const GgufArray& array) {
  return element_type_at(array.index());
}

void GgufMetadata::set(std::string_view key, GgufValue value) {
  const auto found = index_.find(key);
  if (found != index_.end()) {
    entries_[found->second].value = std::move(value);
    return;
  }
  entries_.push_back({std::string(key), std::move(value)});
  index_.emplace(key, entries_.size() - 1);
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].value;
}

std::string GgufMetadata::subject_of(std::string_view key) const {
  return source_.empty() ? fmt::format("key {}", key) : fmt::format("{}: key {}", source_, key);
}

template <typename T>
T GgufMetadata::get(std::string_view key) const {
  const GgufValue* value = find(key);
  const T* typed = value == nullptr ? nullptr : std::get_if<T>(value);
  if (typed == nullptr) {
    throw Error(subject_of(key), type_text(GgufValue(T{})),
                value == nullptr ? std::string(kNoSuchKey) : type_text(*value));
  }
  return *typed;
}

template <typename T>
T GgufMetadata::get_or(std::string_view key, T fallback) const {
  return find(key) == nullptr ? fallback : get<T>(key);
}

template <typename T>
const std::vector<T>& GgufMetadata::get_array(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* array = value == nullptr ? nullptr : std::get_if<GgufArray>(value);
  const auto* typed = array == nullptr ? nullptr : std::get_if<std::vector<T>>(array);
  if (typed == nullptr) {
    throw Error(subject_of(key), type_text(GgufArray(std::vector<T>{})),
                value == nullptr ? std::string(kNoSuchKey) : type_text(*value));
  }
  return *typed;
}

int64_t GgufMetadata::get_count(std::string_view key) const {
  const auto refuse = [&](std::string_view found) -> int64_t {
    throw Error(subject_of(key), "a non-negative integer of 63 bits", found);
  };
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return refuse(kNoSuchKey);
  }
  const auto as_count = [&](const auto& held) -> int64_t {
    using Held = std::decay_t<decltype(held)>;
    if constexpr (std::is_integral_v<Held> && !std::is_same_v<Held, bool>) {
      return std::in_range<int64_t>(held) && !std::cmp_less(held, 0) ? static_cast<int64_t>(held)
                                                                     : refuse(fmt::format("{}", held));
    } else {
      return refuse(type_text(*value));
    }
  };
  return std::visit(as_count, *value);
}

int64_t GgufMetadata::get_count_or(std::string_view key, int64_t fallback) const {
  return find(key) == nullptr ? fallback : get_count(key);
}

template uint8_t GgufMetadata::get(std::string_view) const;
template int8_t GgufMetadata::get(std::string_view) const;
template uint16_t GgufMetadata::get(std::string_view) const;
template int16_t GgufMetadata::get(std::string_view) const;
template uint32_t GgufMetadata::get(std::string_view) const;
template int32_t GgufMetadata::get(std::string_view) const;
template float GgufMetadata::get(std::string_view) const;
template bool GgufMetadata::get(std::string_view) const;
template std::string GgufMetadata::get(std::string_view) const;
template uint64_t GgufMetadata::get(std::string_view) const;
template int64_t GgufMetadata::get(std::string_view) const;
template double GgufMetadata::get(std::string_view) const;

template uint8_t GgufMetadata::get_or(std::string_view, uint8_t) const;
template int8_t GgufMetadata::get_or(std::string_view, int8_t) const;
template uint16_t GgufMetadata::get_or(std::string_view, uint16_t) const;
template int16_t GgufMetadata::get_or(std::string_view, int16_t) const;
template uint32_t GgufMetadata::get_or(std::string_view, uint32_t) const;
template int32_t GgufMetadata::get_or(std::string_view, int32_t) const;
template float GgufMetadata::get_or(std::string_view, float) const;
template bool GgufMetadata::get_or(std::string_view, bool) const;
template std::string GgufMetadata::get_or(std::string_view, std::string) const;
template uint64_t GgufMetadata::get_or(std::string_view, uint64_t) const;
template int64_t GgufMetadata::get_or(std::string_view, int64_t) const;
template double GgufMetadata::get_or(std::string_view, double) const;

template const std::vector<uint8_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<int8_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<uint16_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<int16_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<uint32_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<int32_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<float>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<bool>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<std::string>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<uint64_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<int64_t>& GgufMetadata::get_array(std::string_view) const;
template const std::vector<double>& GgufMetadata::get_array(std::string_view) const;

}  // namespace sluice::quant
