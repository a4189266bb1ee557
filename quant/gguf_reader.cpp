// Parses the header of one GGUF file. Nothing in it is believed: counts are held against the bytes that are
// left before anything is allocated for them.
#include "quant/gguf_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <concepts>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "quant/base/byte_reader.h"
#include "quant/base/error.h"
#include "quant/gguf_layout.h"

namespace sluice::quant {
namespace {

// Smallest records: key length, one byte of key, type, one byte of value; name length, dimension count, type,
// offset.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;
constexpr uint64_t kStringLengthBytes = 8;

// So that an error about a hostile name stays readable.
std::string shortened(std::string_view name) {
  constexpr size_t kShown = 80;
  return name.size() <= kShown ? std::string(name) : fmt::format("{}...", name.substr(0, kShown));
}

// A count of records that take `min_bytes` each at least.
uint64_t read_count(ByteReader& reader, std::string_view what, uint64_t min_bytes) {
  const auto count = reader.read<uint64_t>(what);
  if (count > reader.remaining() / min_bytes) {
    throw Error(reader.subject(), fmt::format("{} that fits the file", what),
                fmt::format("{} with {} bytes left", count, reader.remaining()));
  }
  return count;
}

std::string_view read_string(ByteReader& reader, std::string_view what) {
  const auto length = reader.read<uint64_t>(what);
  if (length > kGgufMaxStringBytes) {
    throw Error(reader.subject(), fmt::format("{} of at most {} bytes", what, kGgufMaxStringBytes),
                fmt::format("{} bytes", length));
  }
  const auto bytes = reader.take(length, what);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool read_bool(ByteReader& reader) {
  const auto byte = reader.read<uint8_t>("bool");
  if (byte > 1) {
    throw Error(reader.subject(), "a bool of 0 or 1", fmt::format("{}", byte));
  }
  return byte == 1;
}

template <typename T>
T read_scalar(ByteReader& reader) {
  if constexpr (std::same_as<T, bool>) {
    return read_bool(reader);
  } else if constexpr (std::same_as<T, std::string>) {
    return std::string(read_string(reader, "string value"));
  } else {
    return reader.read<T>("value");
  }
}

template <typename T>
std::vector<T> read_elements(ByteReader& reader) {
  constexpr uint64_t kMinBytes = std::same_as<T, std::string> ? kStringLengthBytes : sizeof(T);
  const uint64_t count = read_count(reader, "array length", kMinBytes);
  if (count > kGgufMaxArrayElements) {
    throw Error(reader.subject(), fmt::format("an array of at most {} elements", kGgufMaxArrayElements),
                fmt::format("{}", count));
  }
  std::vector<T> elements;
  if constexpr (std::same_as<T, bool> || std::same_as<T, std::string>) {
    // Grown while read: a wrong count in a large file then ends before its memory is asked for.
    for (uint64_t i = 0; i < count; ++i) {
      elements.push_back(read_scalar<T>(reader));
    }
  } else if (count > 0) {
    const auto bytes = reader.take(count * sizeof(T), "array");
    elements.resize(static_cast<size_t>(count));
    std::memcpy(elements.data(), bytes.data(), bytes.size());
  }
  return elements;
}

// Calls f.operator()<T>() with the C++ type of a stored type id; empty for "array" and unknown ids.
template <typename F>
auto with_scalar_type(uint32_t id, F f) -> std::optional<decltype(f.template operator()<uint8_t>())> {
  switch (static_cast<GgufType>(id)) {
    case GgufType::kU8:
      return f.template operator()<uint8_t>();
    case GgufType::kI8:
      return f.template operator()<int8_t>();
    case GgufType::kU16:
      return f.template operator()<uint16_t>();
    case GgufType::kI16:
      return f.template operator()<int16_t>();
    case GgufType::kU32:
      return f.template operator()<uint32_t>();
    case GgufType::kI32:
      return f.template operator()<int32_t>();
    case GgufType::kF32:
      return f.template operator()<float>();
    case GgufType::kBool:
      return f.template operator()<bool>();
    case GgufType::kString:
      return f.template operator()<std::string>();
    case GgufType::kU64:
      return f.template operator()<uint64_t>();
    case GgufType::kI64:
      return f.template operator()<int64_t>();
    case GgufType::kF64:
      return f.template operator()<double>();
    case GgufType::kArray:
      break;
  }
  return std::nullopt;
}

GgufArray read_array(ByteReader& reader) {
  const auto id = reader.read<uint32_t>("array element type");
  auto array = with_scalar_type(id, [&]<typename T>() { return GgufArray(read_elements<T>(reader)); });
  if (!array) {
    throw Error(
        reader.subject(), "a known element type",
        id == static_cast<uint32_t>(GgufType::kArray) ? "an array of arrays" : fmt::format("type id {}", id));
  }
  return *std::move(array);
}

GgufValue read_value(ByteReader& reader) {
  const auto id = reader.read<uint32_t>("value type");
  if (id == static_cast<uint32_t>(GgufType::kArray)) {
    return read_array(reader);
  }
  auto value = with_scalar_type(
      id, [&]<typename T>() { return GgufValue(std::in_place_type<T>, read_scalar<T>(reader)); });
  if (!value) {
    throw Error(reader.subject(), "a known value type", fmt::format("type id {}", id));
  }
  return *std::move(value);
}

void read_entry(ByteReader& reader, const std::string& source, GgufMetadata& metadata) {
  reader.enter(fmt::format("{}: key number {}", source, metadata.entries().size() + 1));
  const std::string_view key = read_string(reader, "key");
  if (key.empty()) {
    throw Error(reader.subject(), "a key", "an empty one");
  }
  reader.enter(fmt::format("{}: key {}", source, shortened(key)));
  if (metadata.find(key) != nullptr) {
    throw Error(reader.subject(), "each key once", "a second one");
  }
  metadata.set(key, read_value(reader));
}

struct TensorRecord {
  Tensor tensor;
  int64_t n_bytes = 0;
  uint64_t offset = 0;  // from the start of the data section
};

DType read_dtype(ByteReader& reader) {
  const auto id = reader.read<uint32_t>("tensor type");
  const std::optional<DType> dtype = dtype_from_id(id);
  if (!dtype) {
    throw Error(reader.subject(), "a known tensor type", fmt::format("type id {}", id));
  }
  return *dtype;
}

std::string tensor_subject(const std::string& source, std::string_view name) {
  return fmt::format("{}: tensor {}", source, shortened(name));
}

TensorRecord read_tensor(ByteReader& reader, const std::string& source, size_t number) {
  reader.enter(fmt::format("{}: tensor number {}", source, number));
  const std::string_view name = read_string(reader, "tensor name");
  reader.enter(tensor_subject(source, name));
  if (name.size() > kGgufMaxNameBytes) {
    throw Error(reader.subject(), fmt::format("a name of at most {} bytes", kGgufMaxNameBytes),
                fmt::format("{}", name.size()));
  }
  TensorRecord record;
  record.tensor.name = name;
  const auto n_dims = reader.read<uint32_t>("dimension count");
  if (n_dims > kGgufMaxDims) {
    throw Error(reader.subject(), fmt::format("at most {} dimensions", kGgufMaxDims),
                fmt::format("{}", n_dims));
  }
  record.tensor.n_dims = static_cast<int>(n_dims);
  for (size_t i = 0; i < n_dims; ++i) {
    record.tensor.ne[i] = reader.read<int64_t>("dimension");
  }
  record.tensor.dtype = read_dtype(reader);
  record.n_bytes = checked_tensor_bytes(record.tensor, reader.subject());
  record.offset = reader.read<uint64_t>("offset");
  return record;
}

std::vector<TensorRecord> read_tensors(ByteReader& reader, const std::string& source, uint64_t count) {
  std::vector<TensorRecord> records;
  std::set<std::string, std::less<>> names;
  for (uint64_t i = 0; i < count; ++i) {
    records.push_back(read_tensor(reader, source, records.size() + 1));
    if (!names.insert(records.back().tensor.name).second) {
      throw Error(reader.subject(), "each tensor once", "a second one");
    }
  }
  return records;
}

// Points the tensors into `data`, the bytes from the start of the data section to the end of the file. They
// lie there without gaps other than the padding between them.
void place_tensors(std::vector<TensorRecord>& records, std::span<const std::byte> data, int64_t alignment,
                   const std::string& source) {
  const auto data_bytes = static_cast<int64_t>(data.size());
  int64_t end = 0;  // of the tensors so far, padded; the last file byte may lie before it
  for (TensorRecord& record : records) {
    Tensor& tensor = record.tensor;
    if (std::cmp_not_equal(record.offset, end)) {
      throw Error(tensor_subject(source, tensor.name), fmt::format("offset {}", end),
                  fmt::format("{}", record.offset));
    }
    if (end > data_bytes || record.n_bytes > data_bytes - end) {
      throw Error(tensor_subject(source, tensor.name), fmt::format("{} bytes of data", record.n_bytes),
                  fmt::format("{} before the end of the file", std::max<int64_t>(data_bytes - end, 0)));
    }
    tensor.bytes = data.subspan(static_cast<size_t>(end), static_cast<size_t>(record.n_bytes));
    end = padded_bytes(end + record.n_bytes, alignment);
  }
}

uint32_t read_version(ByteReader& reader) {
  const auto magic = reader.take(kGgufMagic.size(), "magic");
  if (std::memcmp(magic.data(), kGgufMagic.data(), kGgufMagic.size()) != 0) {
    throw Error(reader.subject(), "a GGUF file", "other first bytes");
  }
  const auto version = reader.read<uint32_t>("version");
  if (version >= kGgufOldestVersion && version <= kGgufVersion) {
    return version;
  }
  const uint32_t swapped = __builtin_bswap32(version);
  throw Error(reader.subject(), fmt::format("GGUF version {} or {}", kGgufOldestVersion, kGgufVersion),
              swapped >= 1 && swapped <= kGgufVersion
                  ? fmt::format("version {} with its bytes swapped: a big-endian file", swapped)
                  : fmt::format("version {}", version));
}

}  // namespace

GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& source) {
  ByteReader reader(file, source);
  GgufHeader header;
  header.version = read_version(reader);
  header.metadata = GgufMetadata(source);
  const uint64_t n_tensors = read_count(reader, "tensor count", kMinTensorBytes);
  const uint64_t n_entries = read_count(reader, "key count", kMinEntryBytes);
  for (uint64_t i = 0; i < n_entries; ++i) {
    read_entry(reader, source, header.metadata);
  }
  const int64_t alignment = gguf_alignment(header.metadata);
  std::vector<TensorRecord> records = read_tensors(reader, source, n_tensors);

  const auto data_start =
      static_cast<size_t>(padded_bytes(static_cast<int64_t>(reader.position()), alignment));
  place_tensors(records, file.subspan(std::min(data_start, file.size())), alignment, source);
  for (TensorRecord& record : records) {
    header.tensors.push_back(std::move(record.tensor));
  }
  return header;
}

}  // namespace sluice::quant
