// Decoding of checkpoint matrices.
#include "engine/convert/source_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cassert>
#include <cstring>
#include <optional>

#include "quant/base/error.h"
#include "quant/base/number.h"
#include "quant/dtype.h"
#include "quant/finite.h"
#include "quant/nvfp4.h"

namespace sluice::convert {
namespace {

using quant::SafetensorsCheckpoint;
using quant::SafetensorsTensor;
using quant::SafetensorsType;

constexpr int64_t kFp8Block = 128;      // rows and columns per scale
constexpr int64_t kNvfp4SubBlock = 16;  // columns per scale

std::string subject_of(const std::string& source, std::string_view name) {
  return fmt::format("{}: tensor {}", source, name);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

uint8_t byte_at(const SafetensorsTensor& tensor, int64_t i) {
  return std::to_integer<uint8_t>(tensor.bytes[static_cast<size_t>(i)]);
}

bool is_plain(SafetensorsType type) {
  return type == SafetensorsType::kBF16 || type == SafetensorsType::kF16 || type == SafetensorsType::kF32 ||
         type == SafetensorsType::kF64;
}

const SafetensorsTensor& require(const SafetensorsCheckpoint& checkpoint, const std::string& source,
                                 const std::string& name, const std::string& expected) {
  const SafetensorsTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    throw Error(subject_of(source, name), expected, "no such tensor");
  }
  return *tensor;
}

void check_shape(const std::string& subject, const std::vector<int64_t>& expected,
                 const std::vector<int64_t>& found) {
  if (found != expected) {
    throw Error(subject, "shape " + shape_text(expected), "shape " + shape_text(found));
  }
}

void check_type(const std::string& subject, SafetensorsType expected, SafetensorsType found) {
  if (found != expected) {
    throw Error(subject, fmt::format("type {}", safetensors_type_name(expected)),
                fmt::format("type {}", safetensors_type_name(found)));
  }
}

}  // namespace

void check_finite(const std::string& subject, std::span<const float> values, int64_t first_row,
                  int64_t cols) {
  const std::optional<int64_t> index = quant::find_non_finite(values);
  if (index) {
    throw Error(subject, "finite values",
                fmt::format("{} at [{}, {}]", values[static_cast<size_t>(*index)], first_row + *index / cols,
                            *index % cols));
  }
}

SourceTensor SourceTensor::find(const SafetensorsCheckpoint& checkpoint, const std::string& source,
                                const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsTensor& weight = require(checkpoint, source, name, "shape " + shape_text(shape));
  SourceTensor result(subject_of(source, name), weight);
  result.cols_ = shape.back();
  result.rows_ = shape.size() == 2 ? shape.front() : 1;
  if (is_plain(weight.dtype)) {
    check_shape(result.subject_, shape, weight.shape);
  } else if (weight.dtype == SafetensorsType::kF8E4M3 && shape.size() == 2) {
    check_shape(result.subject_, shape, weight.shape);
    result.find_fp8_companions(checkpoint, source);
  } else if (weight.dtype == SafetensorsType::kU8 && shape.size() == 2) {
    result.find_nvfp4_companions(checkpoint, source);
  } else {
    throw Error(result.subject_,
                shape.size() == 2 ? "type BF16, F16, F32, F8_E4M3 or U8" : "type BF16, F16 or F32",
                fmt::format("type {}", safetensors_type_name(weight.dtype)));
  }
  return result;
}

std::vector<std::string> SourceTensor::names() const {
  std::vector<std::string> names{weight_->name};
  for (const SafetensorsTensor* companion : {scale_, scale_2_}) {
    if (companion != nullptr) {
      names.push_back(companion->name);
    }
  }
  if (format_ == SourceFormat::kModelOptNvfp4) {
    // The activation scale of 4-bit activations: accounted for, without use here.
    names.push_back(weight_->name.substr(0, weight_->name.size() - std::string_view("weight").size()) +
                    "input_scale");
  }
  return names;
}

void SourceTensor::find_fp8_companions(const SafetensorsCheckpoint& checkpoint, const std::string& source) {
  format_ = SourceFormat::kFp8Blocks;
  const std::string name = weight_->name + "_scale_inv";
  scale_ = &require(checkpoint, source, name, "a scale for every 128x128 block of its F8_E4M3 weight");
  const std::string subject = subject_of(source, name);
  check_shape(subject, {ceil_div(rows_, kFp8Block), ceil_div(cols_, kFp8Block)}, scale_->shape);
  if (!is_plain(scale_->dtype)) {
    check_type(subject, SafetensorsType::kF32, scale_->dtype);
  }
  block_scales_.resize(static_cast<size_t>(scale_->shape[0] * scale_->shape[1]));
  quant::to_f32(*scale_, block_scales_);
  check_finite(subject, block_scales_, 0, scale_->shape[1]);
}

void SourceTensor::find_nvfp4_companions(const SafetensorsCheckpoint& checkpoint, const std::string& source) {
  format_ = SourceFormat::kModelOptNvfp4;
  if (cols_ % kNvfp4SubBlock != 0) {
    throw Error(subject_, "rows of a multiple of 16 columns to hold NVFP4", fmt::format("{} columns", cols_));
  }
  check_shape(subject_, {rows_, cols_ / 2}, weight_->shape);
  scale_ = &require(checkpoint, source, weight_->name + "_scale",
                    "a scale for every 16 columns of its NVFP4 weight");
  check_type(subject_of(source, scale_->name), SafetensorsType::kF8E4M3, scale_->dtype);
  check_shape(subject_of(source, scale_->name), {rows_, cols_ / kNvfp4SubBlock}, scale_->shape);
  scale_2_ =
      &require(checkpoint, source, weight_->name + "_scale_2", "the second-level scale of its NVFP4 weight");
  const std::string subject = subject_of(source, scale_2_->name);
  check_type(subject, SafetensorsType::kF32, scale_2_->dtype);
  if (scale_2_->shape != std::vector<int64_t>{1}) {
    check_shape(subject, {}, scale_2_->shape);
  }
  quant::to_f32(*scale_2_, {&second_scale_, 1});
  check_finite(subject, {&second_scale_, 1}, 0, 1);
}

void SourceTensor::read_rows(int64_t first, std::span<float> values) const {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols_;
  assert(rows * cols_ == static_cast<int64_t>(values.size()) && first >= 0 && first + rows <= rows_);
  if (format_ == SourceFormat::kPlain) {
    const int64_t row_bytes = cols_ * quant::safetensors_type_bytes(weight_->dtype);
    const std::span<const std::byte> bytes =
        weight_->bytes.subspan(static_cast<size_t>(first * row_bytes), static_cast<size_t>(rows * row_bytes));
    quant::to_f32({weight_->name, weight_->dtype, {rows, cols_}, bytes}, values);
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      const std::span<float> out =
          values.subspan(static_cast<size_t>(row * cols_), static_cast<size_t>(cols_));
      if (format_ == SourceFormat::kFp8Blocks) {
        read_fp8_row(first + row, out);
      } else {
        read_nvfp4_row(first + row, out);
      }
    }
  }
  check_finite(subject_, values, first, cols_);
}

void SourceTensor::read_fp8_row(int64_t row, std::span<float> values) const {
  const int64_t blocks = ceil_div(cols_, kFp8Block);
  for (int64_t col = 0; col < cols_; ++col) {
    const float scale = block_scales_[static_cast<size_t>(row / kFp8Block * blocks + col / kFp8Block)];
    values[static_cast<size_t>(col)] = e4m3_to_f32(byte_at(*weight_, row * cols_ + col)) * scale;
  }
}

void SourceTensor::read_nvfp4_row(int64_t row, std::span<float> values) const {
  constexpr float kHalf = 0.5F;  // the table of codes is doubled
  for (int64_t col = 0; col < cols_; ++col) {
    const uint8_t pair = byte_at(*weight_, (row * cols_ + col) / 2);  // low nibble: even column
    const int code = col % 2 == 0 ? pair & 15 : pair >> 4;
    const float scale = e4m3_to_f32(byte_at(*scale_, (row * cols_ + col) / kNvfp4SubBlock));
    values[static_cast<size_t>(col)] = static_cast<float>(kE2m1Doubled[code]) * kHalf * scale * second_scale_;
  }
}

void SourceTensor::repack_rows(int64_t first, int64_t rows, std::span<std::byte> blocks) const {
  using quant::BlockNVFP4;
  constexpr auto kCodeBytes = static_cast<size_t>(BlockNVFP4::kElements / 2);
  constexpr auto kScaleBytes = static_cast<size_t>(BlockNVFP4::kSubBlocks);
  assert(format_ == SourceFormat::kModelOptNvfp4 && cols_ % BlockNVFP4::kElements == 0);
  const auto begin = static_cast<size_t>(first * cols_ / BlockNVFP4::kElements);
  const auto count = static_cast<size_t>(rows * cols_ / BlockNVFP4::kElements);
  assert(blocks.size() == count * sizeof(BlockNVFP4));
  for (size_t i = 0; i < count; ++i) {
    const std::span<const std::byte> codes = weight_->bytes.subspan((begin + i) * kCodeBytes, kCodeBytes);
    const std::span<const std::byte> scales = scale_->bytes.subspan((begin + i) * kScaleBytes, kScaleBytes);
    check_block_scales(static_cast<int64_t>(begin + i), scales);
    BlockNVFP4 block;
    quant::nvfp4_from_modelopt(codes.first<kCodeBytes>(), scales.first<kScaleBytes>(), block);
    std::memcpy(blocks.data() + i * sizeof(block), &block, sizeof(block));
  }
}

void SourceTensor::check_block_scales(int64_t block, std::span<const std::byte> scales) const {
  for (size_t i = 0; i < scales.size(); ++i) {
    const float scale = e4m3_to_f32(std::to_integer<uint8_t>(scales[i]));
    if (!(scale >= 0.0F)) {  // also true for NaN
      const int64_t index = block * static_cast<int64_t>(scales.size()) + static_cast<int64_t>(i);
      const int64_t per_row = scale_->shape[1];
      throw Error(subject_ + "_scale", "scales that are not negative",
                  fmt::format("{} at [{}, {}]", scale, index / per_row, index % per_row));
    }
  }
}

}  // namespace sluice::convert
