// Tensors on their way into a GGUF file: read, encoded by several threads, written, a bounded piece at a
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/convert/output_plan.h"
#include "offload/workers.h"
#include "quant/gguf_writer.h"
#include "quant/tensor.h"

namespace sluice::convert {

/// Consecutive rows of one matrix of a stack.
struct RowRange {
  int64_t slice;
  int64_t first_row;
  int64_t rows;
};

/// Decodes the rows of a range. Called by several threads at once. Throws Error.
using ReadRows = std::function<void(const RowRange& range, std::span<float> values)>;
/// Makes the bytes of a range as they will lie in the file. Called by several threads at once. Throws Error.
using MakeBlocks = std::function<void(const RowRange& range, std::span<std::byte> blocks)>;

/// The values of a tensor, as a stack of matrices of its shape.
struct MatrixStack {
  int64_t rows_per_read = 0;  // largest range asked for at once; all rows when a slice is read whole
  ReadRows read;
};

/// Rows of `cols` elements that make a task for one worker: 256 KiB of floats; at least 1, at most `rows`.
int64_t rows_per_task(int64_t rows, int64_t cols);

/// Writes one tensor after the other, in the order that `writer` was told. The bytes do not depend on the
/// number of workers. Memory: 4 MiB of floats, encoded, and one task's floats per worker, besides the largest
/// slice that is read whole. The progress callback is asked after every piece, a fraction of a second apart.
class MatrixWriter {
 public:
  /// Keeps the references.
  MatrixWriter(quant::GgufWriter& writer, ProgressMeter& progress, offload::Workers& workers);

  /// A tensor whose bytes are there already.
  void write_bytes(const quant::Tensor& target, std::span<const std::byte> bytes);
  /// A tensor whose blocks `make` makes, at most `range_rows` rows at a time.
  void write_blocks(const quant::Tensor& target, int64_t range_rows, const MakeBlocks& make);
  /// Encodes the whole stack.
  void write_matrices(const quant::Tensor& target, const MatrixStack& stack);
  /// The same for NVFP4 with a second-level scale: each slice is divided by largest magnitude / (6 * 448)
  /// first, so that its block scales use the whole range of e4m3. Returns those factors, one per slice (1
  /// where all is zero).
  std::vector<float> write_scaled_nvfp4(const quant::Tensor& target, const MatrixStack& stack);

 private:
  class Ranges;
  /// Encodes and writes ranges [begin, end).
  void write_ranges(const quant::Tensor& target, const Ranges& ranges, int64_t begin, int64_t end,
                    const MakeBlocks& make);
  /// Of slices [begin, end).
  std::vector<float> second_scales(const quant::Tensor& target, const Ranges& ranges, int64_t begin,
                                   int64_t end, const ReadRows& read);
  /// make(i) for i in [begin, end) by all workers; of several Errors the one of the lowest i is thrown.
  void for_each(int64_t begin, int64_t end, const std::function<void(int64_t)>& make);

  quant::GgufWriter& writer_;
  ProgressMeter& progress_;
  offload::Workers& workers_;
  std::vector<std::byte> blocks_;
};

}  // namespace sluice::convert
