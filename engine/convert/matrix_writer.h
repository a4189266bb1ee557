// Streams a matrix, or a stack of them, from a decoder to a GGUF file through an encoder, a bounded piece at
// a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quant/dtype.h"
#include "quant/gguf_writer.h"

namespace sluice::convert {

/// Decodes whole rows of one matrix of the stack, beginning with `first_row`, until `values` is full. Throws
/// Error.
using ReadRows = std::function<void(int64_t slice, int64_t first_row, std::span<float> values)>;

struct MatrixStack {
  int64_t slices = 1;
  int64_t rows = 0;  // of each slice
  int64_t cols = 0;
  int64_t rows_per_read = 0;  // largest number of rows asked for at once; `rows` when a slice is read whole
  ReadRows read;
};

/// Rows of `cols` elements so that a piece stays below 64 MiB of floats; at least 1, at most `rows`.
int64_t bounded_rows(int64_t rows, int64_t cols);

/// Encodes `rows` rows of `cols` floats; out holds rows * row_bytes(dtype, cols).
void encode_rows(std::span<const float> values, int64_t rows, int64_t cols, quant::DType dtype,
                 std::span<std::byte> out);

/// Encodes and writes the whole stack.
void write_matrices(quant::GgufWriter& writer, const MatrixStack& stack, quant::DType dtype);

/// The same for NVFP4 with a second-level scale: each slice is divided by largest magnitude / (6 * 448)
/// first, so that its block scales use the whole range of e4m3. Returns those factors, one per slice (1 where
/// all is zero).
std::vector<float> write_scaled_nvfp4(quant::GgufWriter& writer, const MatrixStack& stack);

}  // namespace sluice::convert
