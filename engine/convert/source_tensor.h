// One matrix of a checkpoint, decoded to floats a range of rows at a time, whatever it is stored as: plain
// numbers, FP8 with block scales, or ModelOpt NVFP4 (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/safetensors_reader.h"

namespace sluice::convert {

enum class SourceFormat {
  kPlain,      // BF16, F16, F32, F64
  kFp8Blocks,  // F8_E4M3 with `_scale_inv` [ceil(rows/128), ceil(cols/128)]: a multiplier despite its name
  kModelOptNvfp4,  // U8 [rows, cols/2] of two e2m1 codes, `_scale` F8_E4M3 [rows, cols/16], `_scale_2` F32
                   // scalar
};

/// Finite, or an Error naming `subject` and the place. values are whole rows of `cols`, the first being
/// `first_row`.
void check_finite(const std::string& subject, std::span<const float> values, int64_t first_row, int64_t cols);

/// Views into a checkpoint, which must outlive it. A vector is a matrix of one row.
class SourceTensor {
 public:
  /// Finds tensor `name` of logical `shape` and its companions. Throws Error naming the missing, mistyped or
  /// misshapen tensor; `source` names the checkpoint in errors.
  static SourceTensor find(const quant::SafetensorsCheckpoint& checkpoint, const std::string& source,
                           const std::string& name, const std::vector<int64_t>& shape);

  [[nodiscard]] SourceFormat format() const { return format_; }
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t cols() const { return cols_; }
  /// This tensor's and its companions' names.
  [[nodiscard]] std::vector<std::string> names() const;

  /// Decodes rows [first, first + values.size() / cols()). Throws Error when a value is not finite.
  void read_rows(int64_t first, std::span<float> values) const;

  /// kModelOptNvfp4 only. The scalar that multiplies the whole matrix.
  [[nodiscard]] float second_scale() const { return second_scale_; }
  /// kModelOptNvfp4 only. The same rows in GGUF's NVFP4 blocks, without second_scale(); cols() must divide
  /// by 64.
  void repack_rows(int64_t first, int64_t rows, std::span<std::byte> blocks) const;

 private:
  SourceTensor(std::string subject, const quant::SafetensorsTensor& weight)
      : subject_(std::move(subject)), weight_(&weight) {}
  void find_fp8_companions(const quant::SafetensorsCheckpoint& checkpoint, const std::string& source);
  void find_nvfp4_companions(const quant::SafetensorsCheckpoint& checkpoint, const std::string& source);
  void read_fp8_row(int64_t row, std::span<float> values) const;
  void read_nvfp4_row(int64_t row, std::span<float> values) const;
  void check_block_scales(int64_t block, std::span<const std::byte> scales) const;

  std::string subject_;
  const quant::SafetensorsTensor* weight_;
  const quant::SafetensorsTensor* scale_ = nullptr;
  const quant::SafetensorsTensor* scale_2_ = nullptr;
  SourceFormat format_ = SourceFormat::kPlain;
  int64_t rows_ = 1;
  int64_t cols_ = 0;
  std::vector<float> block_scales_;  // kFp8Blocks: [ceil(rows/128), ceil(cols/128)]
  float second_scale_ = 1.0F;
};

}  // namespace sluice::convert
