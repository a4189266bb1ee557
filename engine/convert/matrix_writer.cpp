// Encoding of matrices piece by piece.
#include "engine/convert/matrix_writer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <thread>

#include "offload/workers.h"
#include "quant/block_codec.h"
#include "quant/nvfp4.h"

namespace sluice::convert {
namespace {

using quant::DType;

constexpr int64_t kRowsPerTask = 16;
constexpr int64_t kPieceFloats = int64_t{16} << 20;
// Below this a matrix is taken as zero: its scale would leave float's normal range.
constexpr float kNegligible = 1e-30F;

/// Calls fn(slice, values) for every piece of one slice, in order.
template <typename Fn>
void for_pieces(const MatrixStack& stack, int64_t slice, std::vector<float>& buffer, const Fn& fn) {
  for (int64_t row = 0; row < stack.rows; row += stack.rows_per_read) {
    const int64_t rows = std::min(stack.rows_per_read, stack.rows - row);
    buffer.resize(static_cast<size_t>(rows * stack.cols));
    stack.read(slice, row, buffer);
    fn(std::span<float>(buffer), rows);
  }
}

float largest_magnitude(std::span<const float> values) {
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

class PieceEncoder {
 public:
  PieceEncoder(quant::GgufWriter& writer, const MatrixStack& stack, DType dtype)
      : writer_(writer), cols_(stack.cols), dtype_(dtype) {}

  void write(std::span<const float> values, int64_t rows) {
    const int64_t row_bytes = quant::row_bytes(dtype_, cols_);
    blocks_.resize(static_cast<size_t>(rows * row_bytes));
    const std::span<std::byte> blocks(blocks_);
    workers_.for_ranges(rows, kRowsPerTask, [&](int64_t begin, int64_t end, int64_t) {
      const auto count = static_cast<size_t>(end - begin);
      encode_rows(
          values.subspan(static_cast<size_t>(begin * cols_), count * static_cast<size_t>(cols_)), end - begin,
          cols_, dtype_,
          blocks.subspan(static_cast<size_t>(begin * row_bytes), count * static_cast<size_t>(row_bytes)));
    });
    writer_.write(blocks_);
  }

 private:
  quant::GgufWriter& writer_;
  int64_t cols_;
  DType dtype_;
  offload::Workers workers_{std::max<int64_t>(1, std::thread::hardware_concurrency())};
  std::vector<std::byte> blocks_;
};

}  // namespace

int64_t bounded_rows(int64_t rows, int64_t cols) {
  return std::clamp<int64_t>(kPieceFloats / cols, 1, rows);
}

void encode_rows(std::span<const float> values, int64_t rows, int64_t cols, DType dtype,
                 std::span<std::byte> out) {
  const int64_t row_bytes = quant::row_bytes(dtype, cols);
  assert(static_cast<int64_t>(values.size()) == rows * cols &&
         static_cast<int64_t>(out.size()) == rows * row_bytes);
  for (int64_t row = 0; row < rows; ++row) {
    quant::quantize_row(dtype, values.subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols)),
                        out.subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes)));
  }
}

void write_matrices(quant::GgufWriter& writer, const MatrixStack& stack, DType dtype) {
  PieceEncoder encoder(writer, stack, dtype);
  std::vector<float> buffer;
  for (int64_t slice = 0; slice < stack.slices; ++slice) {
    for_pieces(stack, slice, buffer,
               [&](std::span<float> values, int64_t rows) { encoder.write(values, rows); });
  }
}

std::vector<float> write_scaled_nvfp4(quant::GgufWriter& writer, const MatrixStack& stack) {
  PieceEncoder encoder(writer, stack, DType::kNVFP4);
  std::vector<float> buffer;
  std::vector<float> scales;
  for (int64_t slice = 0; slice < stack.slices; ++slice) {
    float largest = 0.0F;
    for_pieces(stack, slice, buffer, [&](std::span<float> values, int64_t) {
      largest = std::max(largest, largest_magnitude(values));
    });
    const float scale = largest > kNegligible ? largest / quant::kNvfp4Largest : 1.0F;
    for_pieces(stack, slice, buffer, [&](std::span<float> values, int64_t rows) {
      for (float& value : values) {
        value /= scale;
      }
      encoder.write(values, rows);
    });
    scales.push_back(scale);
  }
  return scales;
}

}  // namespace sluice::convert
