// Layout: u64 length of the header, that many bytes of JSON, then the tensors' bytes. Nothing is trusted:
// tensors are handed out only when each has the size of its type and shape and together they tile the data.
#include "quant/safetensors_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <limits>

#include "quant/base/error.h"
#include "quant/base/in_quotes.h"
#include "quant/checked_json.h"
#include "quant/plain.h"

namespace sluice::quant {
namespace {

struct TypeInfo {
  SafetensorsType type;
  std::string_view name;
  int64_t bytes;
};

// In the order of the enumeration.
constexpr std::array kTypes{
    TypeInfo{SafetensorsType::kBool, "BOOL", 1}, TypeInfo{SafetensorsType::kU8, "U8", 1},
    TypeInfo{SafetensorsType::kI8, "I8", 1},     TypeInfo{SafetensorsType::kF8E4M3, "F8_E4M3", 1},
    TypeInfo{SafetensorsType::kI16, "I16", 2},   TypeInfo{SafetensorsType::kU16, "U16", 2},
    TypeInfo{SafetensorsType::kF16, "F16", 2},   TypeInfo{SafetensorsType::kBF16, "BF16", 2},
    TypeInfo{SafetensorsType::kI32, "I32", 4},   TypeInfo{SafetensorsType::kU32, "U32", 4},
    TypeInfo{SafetensorsType::kF32, "F32", 4},   TypeInfo{SafetensorsType::kF64, "F64", 8},
    TypeInfo{SafetensorsType::kI64, "I64", 8},   TypeInfo{SafetensorsType::kU64, "U64", 8},
};

constexpr bool in_enumeration_order() {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (static_cast<size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}
static_assert(in_enumeration_order());

const TypeInfo& info_of(SafetensorsType type) {
  return kTypes[static_cast<size_t>(type)];
}

// The JSON text; what follows it in `file` are the tensors' bytes.
std::string_view header_text(std::span<const std::byte> file, const std::string& source) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    throw Error(source, "the 8 bytes of a header length", fmt::format("a file of {} bytes", file.size()));
  }
  std::memcpy(&length, file.data(), sizeof(length));
  const uint64_t most = std::min<uint64_t>(kLargestJson, file.size() - sizeof(length));
  if (length > most) {
    throw Error(source, fmt::format("a header of at most {} bytes", most), fmt::format("length {}", length));
  }
  const auto* text = reinterpret_cast<const char*>(file.data() + sizeof(length));
  if (length == 0 || *text != '{') throw Error(source, "a header that starts with '{'", "something else");
  return {text, length};
}

// An array of integers from 0 to 2^63 - 1.
std::vector<int64_t> integers(const Json& value, const std::string& subject, std::string_view key) {
  const auto fail = [&](const Json& found) {
    throw Error(subject, fmt::format("integers of at most 63 bits in \"{}\"", key), described(found));
  };
  if (!value.is_array()) fail(value);
  std::vector<int64_t> numbers;
  numbers.reserve(value.size());
  for (const Json& element : value) {
    const bool fits = element.is_number_unsigned() &&
                      element.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
    if (!fits) fail(element);
    numbers.push_back(element.get<int64_t>());
  }
  return numbers;
}

SafetensorsType type_of(const Json& value, const std::string& subject) {
  for (const TypeInfo& info : kTypes) {
    if (value.is_string() && value.get_ref<const std::string&>() == info.name) return info.type;
  }
  std::string expected = "a dtype out of";
  for (const TypeInfo& info : kTypes) {
    expected += ' ';
    expected += info.name;
  }
  throw Error(subject, expected, described(value));
}

// "[2, 3]", cut after a few numbers: a hostile header may list millions.
std::string listed(const std::vector<int64_t>& numbers) {
  constexpr std::ptrdiff_t kMost = 8;
  const auto shown = numbers.begin() + std::min(kMost, std::ssize(numbers));
  return fmt::format("[{}{}]", fmt::join(numbers.begin(), shown, ", "),
                     shown == numbers.end() ? "" : ", ...");
}

int64_t bytes_of(SafetensorsType type, const std::vector<int64_t>& shape, const std::string& subject) {
  int64_t bytes = info_of(type).bytes;
  bool empty = false;
  // An extent of 0 counts as 1, so that the product of any of the extents fits as well.
  for (const int64_t extent : shape) {
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(extent, 1), &bytes)) {
      throw Error(subject, "a shape of fewer than 2^63 bytes", listed(shape));
    }
  }
  return empty ? 0 : bytes;
}

SafetensorsTensor read_tensor(const std::string& name, const Json& entry, std::span<const std::byte> data,
                              const std::string& source) {
  const std::string subject = fmt::format("{}: tensor {}", source, in_quotes(name));
  if (!entry.is_object()) throw Error(subject, "an object", described(entry));
  const SafetensorsType dtype = type_of(member(entry, "dtype", subject), subject);
  std::vector<int64_t> shape = integers(member(entry, "shape", subject), subject, "shape");
  const auto offsets = integers(member(entry, "data_offsets", subject), subject, "data_offsets");
  const auto data_bytes = static_cast<int64_t>(data.size());
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes) {
    throw Error(subject, fmt::format("data_offsets [begin, end] within the {} bytes of data", data_bytes),
                listed(offsets));
  }
  const int64_t expected = bytes_of(dtype, shape, subject);
  const int64_t length = offsets[1] - offsets[0];
  if (length != expected) {
    throw Error(subject, fmt::format("{} bytes for {} {}", expected, info_of(dtype).name, listed(shape)),
                fmt::format("{}", length));
  }
  return {name, dtype, std::move(shape),
          data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(length))};
}

// Sorts by place and checks that the tensors tile the data.
void check_tiling(std::vector<SafetensorsTensor>& tensors, std::span<const std::byte> data,
                  const std::string& source) {
  // An empty tensor stands before the one that begins at the same place.
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const int64_t begin = tensor.bytes.data() - data.data();
    if (begin != end) {
      throw Error(fmt::format("{}: tensor {}", source, in_quotes(tensor.name)),
                  fmt::format("data at offset {}, after the tensor before it", end),
                  fmt::format("{} at offset {}", begin < end ? "an overlap" : "a gap", begin));
    }
    end += std::ssize(tensor.bytes);
  }
  if (end != std::ssize(data)) {
    throw Error(source, fmt::format("an end after {} bytes of data, where the last tensor ends", end),
                fmt::format("{} bytes", data.size()));
  }
}

}  // namespace

std::string_view safetensors_type_name(SafetensorsType type) {
  return info_of(type).name;
}

int64_t safetensors_type_bytes(SafetensorsType type) {
  return info_of(type).bytes;
}

std::vector<SafetensorsTensor> parse_safetensors(std::span<const std::byte> file, const std::string& source) {
  const std::string_view text = header_text(file, source);
  const std::span<const std::byte> data = file.subspan(sizeof(uint64_t) + text.size());
  const Json header = parse_json_object(text, source + ": header");
  std::vector<SafetensorsTensor> tensors;
  tensors.reserve(header.size());
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") tensors.push_back(read_tensor(name, entry, data, source));
  }
  check_tiling(tensors, data, source);
  return tensors;
}

void to_f32(const SafetensorsTensor& tensor, std::span<float> values) {
  assert(std::ssize(tensor.bytes) == std::ssize(values) * safetensors_type_bytes(tensor.dtype));
  switch (tensor.dtype) {
    case SafetensorsType::kF32:
      return dequantize_f32(tensor.bytes, values);
    case SafetensorsType::kF16:
      return dequantize_f16(tensor.bytes, values);
    case SafetensorsType::kBF16:
      return dequantize_bf16(tensor.bytes, values);
    case SafetensorsType::kF64:
      for (size_t i = 0; i < values.size(); ++i) {
        double value = 0;
        std::memcpy(&value, tensor.bytes.data() + i * sizeof(value), sizeof(value));
        values[i] = static_cast<float>(value);
      }
      return;
    default:
      throw Error("tensor " + in_quotes(tensor.name), "type F32, F16, BF16 or F64",
                  fmt::format("type {}", safetensors_type_name(tensor.dtype)));
  }
}

}  // namespace sluice::quant
