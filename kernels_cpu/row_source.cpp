#include "kernels_cpu/row_source.h"

#include <array>
#include <cmath>
#include <cstring>

#include "quant/base/number.h"

namespace sluice::cpu {
namespace {

constexpr size_t kFloat = sizeof(float);

// Built once: decoding is a look-up.
std::array<float, 256> e4m3_values() {
  std::array<float, 256> values{};
  for (size_t bits = 0; bits < values.size(); ++bits) {
    values[bits] = e4m3_to_f32(static_cast<uint8_t>(bits));
  }
  return values;
}

float largest_magnitude(std::span<const float> x) {
  float largest = 0;
  for (const float value : x) {
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

float load_float(const std::byte* p) {
  float value = 0;
  std::memcpy(&value, p, kFloat);
  return value;
}

void store_float(std::byte* p, float value) {
  std::memcpy(p, &value, kFloat);
}

void read_fp8(const Kernels& kernels, const CacheRows& rows, const std::byte* row, float* out) {
  static const std::array<float, 256> values = e4m3_values();
  const std::byte* const scales = row + rows.latent;
  const int64_t groups = rows.latent / kFp8Group;
  for (int64_t g = 0; g < groups; ++g) {
    const float scale = load_float(scales + g * static_cast<int64_t>(kFloat));
    for (int64_t i = g * kFp8Group; i < (g + 1) * kFp8Group; ++i) {
      out[i] = values[static_cast<size_t>(row[i])] * scale;
    }
  }
  kernels.dequantize_row[static_cast<size_t>(quant::DType::kBF16)](
      scales + groups * static_cast<int64_t>(kFloat), rows.cols - rows.latent, out + rows.latent);
}

void read_int8(const CacheRows& rows, const std::byte* row, float* out) {
  const float scale = load_float(row + rows.cols);
  for (int64_t i = 0; i < rows.cols; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(row[i])) * scale;
  }
}

void write_fp8(const Kernels& kernels, std::span<const float> row, int64_t latent, std::byte* out) {
  constexpr float kLeast = 1e-4F;  // of a group's largest magnitude
  constexpr float kLargest = 448.0F;
  std::byte* const scales = out + latent;
  const int64_t groups = latent / kFp8Group;
  for (int64_t g = 0; g < groups; ++g) {
    const auto group = row.subspan(static_cast<size_t>(g * kFp8Group), static_cast<size_t>(kFp8Group));
    const float scale =
        std::exp2(std::ceil(std::log2(std::max(largest_magnitude(group), kLeast) / kLargest)));
    for (int64_t i = 0; i < kFp8Group; ++i) {
      out[g * kFp8Group + i] = std::byte{f32_to_e4m3(group[static_cast<size_t>(i)] / scale)};
    }
    store_float(scales + g * static_cast<int64_t>(kFloat), scale);
  }
  kernels.to_bf16(row.data() + latent, static_cast<int64_t>(row.size()) - latent,
                  reinterpret_cast<uint16_t*>(scales + groups * static_cast<int64_t>(kFloat)));
}

void write_int8(std::span<const float> row, std::byte* out) {
  constexpr float kLargest = 127.0F;
  const float largest = largest_magnitude(row);
  const float inverse = largest > 0 ? kLargest / largest : 0.0F;
  for (size_t i = 0; i < row.size(); ++i) {
    out[i] = static_cast<std::byte>(static_cast<int8_t>(std::nearbyint(row[i] * inverse)));
  }
  store_float(out + row.size(), largest / kLargest);
}

}  // namespace

int64_t row_bytes(RowFormat format, int64_t cols, int64_t latent) {
  switch (format) {
    case RowFormat::kF32:
      return 4 * cols;
    case RowFormat::kBF16:
      return 2 * cols;
    case RowFormat::kFp8:
      assert(latent % kFp8Group == 0);
      return latent + 4 * (latent / kFp8Group) + 2 * (cols - latent);
    case RowFormat::kInt8:
      return cols + 4;
  }
  return 0;
}

void CacheRows::read(const Kernels& kernels, int64_t r, float* out) const {
  const std::byte* const row = data + r * row_bytes;
  switch (format) {
    case RowFormat::kF32:
      std::memcpy(out, row, static_cast<size_t>(cols) * kFloat);
      return;
    case RowFormat::kBF16:
      kernels.dequantize_row[static_cast<size_t>(quant::DType::kBF16)](row, cols, out);
      return;
    case RowFormat::kFp8:
      read_fp8(kernels, *this, row, out);
      return;
    case RowFormat::kInt8:
      read_int8(*this, row, out);
      return;
  }
}

void write_row(const Kernels& kernels, RowFormat format, std::span<const float> row, int64_t latent,
               std::byte* out) {
  switch (format) {
    case RowFormat::kF32:
      std::memcpy(out, row.data(), row.size_bytes());
      return;
    case RowFormat::kBF16:
      kernels.to_bf16(row.data(), static_cast<int64_t>(row.size()), reinterpret_cast<uint16_t*>(out));
      return;
    case RowFormat::kFp8:
      write_fp8(kernels, row, latent, out);
      return;
    case RowFormat::kInt8:
      write_int8(row, out);
      return;
  }
}

}  // namespace sluice::cpu
