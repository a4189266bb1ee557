// The layout is that of docs/formats.md; the reader under test shares no code with it.
#include "support/safetensors_builder.h"

#include <fstream>
#include <utility>

namespace sluice::testing {

Bytes safetensors_bytes(std::string_view header, std::span<const std::byte> data) {
  Bytes bytes;
  for (int shift = 0; shift < 64; shift += 8) {
    bytes.push_back(static_cast<std::byte>(header.size() >> shift & 0xFF));
  }
  const auto text = std::as_bytes(std::span(header));
  bytes.insert(bytes.end(), text.begin(), text.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

nlohmann::json safetensors_entry(std::string_view dtype, const std::vector<int64_t>& shape, int64_t begin,
                                 int64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

SafetensorsBuilder& SafetensorsBuilder::add(const std::string& name, std::string_view dtype,
                                            const std::vector<int64_t>& shape,
                                            std::span<const std::byte> bytes) {
  const int64_t begin = std::ssize(data_);
  data_.insert(data_.end(), bytes.begin(), bytes.end());
  return set(name, safetensors_entry(dtype, shape, begin, std::ssize(data_)));
}

SafetensorsBuilder& SafetensorsBuilder::set(const std::string& key, nlohmann::json value) {
  header_[key] = std::move(value);
  return *this;
}

void SafetensorsBuilder::write(const std::filesystem::path& path) const {
  const Bytes content = bytes();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
}

}  // namespace sluice::testing
