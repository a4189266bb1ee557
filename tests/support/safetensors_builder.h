// Safetensors files made byte by byte, well-formed and otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::testing {

using Bytes = std::vector<std::byte>;

/// The length of `header`, `header`, `data`.
Bytes safetensors_bytes(std::string_view header, std::span<const std::byte> data);

/// One header entry.
nlohmann::json safetensors_entry(std::string_view dtype, const std::vector<int64_t>& shape, int64_t begin,
                                 int64_t end);

/// A well-formed file: tensors lie one after the other in the order of the calls.
class SafetensorsBuilder {
 public:
  SafetensorsBuilder& add(const std::string& name, std::string_view dtype, const std::vector<int64_t>& shape,
                          std::span<const std::byte> bytes);
  /// Any member of the header, "__metadata__" for one.
  SafetensorsBuilder& set(const std::string& key, nlohmann::json value);

  [[nodiscard]] const nlohmann::json& header() const { return header_; }
  [[nodiscard]] const Bytes& data() const { return data_; }
  [[nodiscard]] Bytes bytes() const { return safetensors_bytes(header_.dump(), data_); }
  void write(const std::filesystem::path& path) const;

 private:
  nlohmann::json header_ = nlohmann::json::object();
  Bytes data_;
};

}  // namespace sluice::testing
