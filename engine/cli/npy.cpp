// The header's text and its parts; elements go through as they lie in memory (little-endian machines only).
#include "engine/cli/npy.h"

#include <fmt/format.h>

#include <bit>
#include <cassert>
#include <cstring>
#include <functional>
#include <numeric>
#include <regex>
#include <type_traits>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are stored as they lie in memory");

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kPreamble = 10;  // magic, version, header length
constexpr size_t kAlignment = 64;

std::string header_text(std::string_view dtype, std::span<const int64_t> shape) {
  std::string sizes;
  for (const int64_t size : shape) {
    sizes += fmt::format("{}, ", size);
  }
  if (!sizes.empty()) {
    sizes.resize(sizes.size() - (shape.size() > 1 ? 2 : 1));  // (3, 4), but (3,)
  }
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", dtype, sizes);
  const size_t unpadded = kPreamble + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  return text + '\n';
}

std::string file_header(std::string_view dtype, std::span<const int64_t> shape) {
  const std::string header = header_text(dtype, shape);
  return std::string(kMagic) + '\x01' + '\0' + static_cast<char>(header.size() & 0xFFU) +
         static_cast<char>(header.size() >> 8U) + header;
}

template <typename T>
std::vector<int64_t> elements_of(std::string_view data) {
  std::vector<int64_t> values(data.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    values[i] = value;
  }
  return values;
}

}  // namespace

template <typename T>
NpyFile<T>::NpyFile(const std::filesystem::path& path, const std::vector<int64_t>& shape)
    : file_(path), missing_(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>())) {
  file_.write(file_header(std::is_same_v<T, float> ? "<f4" : "<i4", shape));
}

template <typename T>
void NpyFile<T>::write(std::span<const T> values) {
  missing_ -= static_cast<int64_t>(values.size());
  file_.write(std::as_bytes(values));
}

template <typename T>
void NpyFile<T>::write(MatrixView<const T> values) {
  if (values.row_stride == values.cols) {
    write(std::span<const T>(values.data, static_cast<size_t>(values.rows * values.cols)));
    return;
  }
  for (int64_t row = 0; row < values.rows; ++row) {
    write(values.row(row));
  }
}

template <typename T>
void NpyFile<T>::commit() {
  assert(missing_ == 0);
  file_.commit();
}

template class NpyFile<float>;
template class NpyFile<int32_t>;

bool is_npy(std::string_view bytes) {
  return bytes.starts_with(kMagic);
}

std::vector<int64_t> parse_npy_ids(std::string_view bytes, const std::string& source) {
  const auto refuse = [&](const std::string& found) {
    throw Error(source, "a one-dimensional .npy array of int32 or int64", found);
  };
  if (bytes.size() < kPreamble || !is_npy(bytes) || bytes[6] != 1) {
    refuse("no .npy header of version 1");
  }
  const auto header_bytes = static_cast<size_t>(static_cast<uint8_t>(bytes[8])) +
                            (static_cast<size_t>(static_cast<uint8_t>(bytes[9])) << 8U);
  if (bytes.size() - kPreamble < header_bytes) {
    refuse(fmt::format("a header of {} bytes in a file of {}", header_bytes, bytes.size()));
  }
  const std::string header(bytes.substr(kPreamble, header_bytes));
  const std::string_view data = bytes.substr(kPreamble + header_bytes);
  static const std::regex description_pattern("'descr': '<i([48])'");
  static const std::regex shape_pattern(R"('shape': \(([0-9]{1,12}),\))");
  std::smatch description;
  std::smatch shape;
  if (!std::regex_search(header, description, description_pattern) ||
      !std::regex_search(header, shape, shape_pattern)) {
    refuse(header.substr(0, header.find_last_not_of(" \n") + 1));
  }
  const size_t element_bytes = description[1].str() == "4" ? 4 : 8;
  if (data.size() != std::stoull(shape[1].str()) * element_bytes) {
    refuse(fmt::format("shape ({},) and {} bytes of data", shape[1].str(), data.size()));
  }
  return element_bytes == 4 ? elements_of<int32_t>(data) : elements_of<int64_t>(data);
}

}  // namespace sluice::cli
