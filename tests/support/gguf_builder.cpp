// Packs GGUF fields by hand.
#include "support/gguf_builder.h"

#include <fstream>
#include <iterator>
#include <utility>

namespace sluice::testing {

using quant::GgufType;

std::string raw_string(std::string_view text) {
  return raw(uint64_t{text.size()}).append(text);
}

std::string raw_array(GgufType type, uint64_t count, std::string_view elements) {
  return (raw(static_cast<uint32_t>(type)) + raw(count)).append(elements);
}

GgufBuilder& GgufBuilder::entry(std::string_view key, GgufType type, std::string_view value) {
  entries.push_back((raw_string(key) + raw(static_cast<uint32_t>(type))).append(value));
  return *this;
}

GgufBuilder& GgufBuilder::tensor(GgufTensorRecord record) {
  tensors.push_back(std::move(record));
  return *this;
}

GgufBuilder& GgufBuilder::ramp(const std::string& name, int64_t n) {
  std::string data;
  for (int64_t i = 0; i < n; ++i) {
    data += raw(static_cast<float>(i));
  }
  return tensor({.name = name, .ne = {n}, .type = 0, .data = std::move(data), .offset = std::nullopt});
}

GgufBuilder& GgufBuilder::shard(uint16_t number, uint16_t count, std::optional<int32_t> n_tensors_in_all) {
  entry("split.no", GgufType::kU16, raw(number));
  entry("split.count", GgufType::kU16, raw(count));
  if (n_tensors_in_all) {
    entry("split.tensors.count", GgufType::kI32, raw(*n_tensors_in_all));
  }
  return *this;
}

std::string GgufBuilder::header() const {
  std::string out = magic + raw(version);
  out += raw(n_tensors.value_or(tensors.size()));
  out += raw(n_entries.value_or(entries.size()));
  for (const std::string& packed : entries) {
    out += packed;
  }
  uint64_t offset = 0;
  for (const GgufTensorRecord& record : tensors) {
    out += raw_string(record.name) + raw(static_cast<uint32_t>(record.ne.size()));
    for (const int64_t ne : record.ne) {
      out += raw(ne);
    }
    out += raw(record.type) + raw(record.offset.value_or(offset));
    offset += (record.data.size() + alignment - 1) / alignment * alignment;
  }
  return out;
}

std::string GgufBuilder::build() const {
  std::string out = header();
  for (const GgufTensorRecord& record : tensors) {
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    out += record.data;
  }
  return out;
}

void GgufBuilder::save(const std::filesystem::path& path) const {
  const std::string bytes = build();
  std::ofstream file(path, std::ios::binary);
  file.exceptions(std::ios::failbit | std::ios::badbit);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::span<const std::byte> as_file(const std::string& bytes) {
  return std::as_bytes(std::span(bytes));
}

std::string load_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  file.exceptions(std::ios::badbit);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace sluice::testing
