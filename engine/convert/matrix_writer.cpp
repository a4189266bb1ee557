// A tensor is cut into ranges of rows. A batch of ranges is encoded in parallel, then written.
#include "engine/convert/matrix_writer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>

#include "quant/block_codec.h"
#include "quant/nvfp4.h"

namespace sluice::convert {
namespace {

using quant::DType;
using quant::Tensor;

constexpr int64_t kTaskFloats = int64_t{64} << 10;
// Between two writes: enough to even out the tasks, little enough to stop soon (q4_k: about 30 ms).
constexpr int64_t kTasksPerWorker = 16;
constexpr size_t kCopyBytes = size_t{4} << 20;
// Below this a matrix is taken as zero: its scale would leave float's normal range.
constexpr float kNegligible = 1e-30F;

float largest_magnitude(std::span<const float> values) {
  float largest = 0.0F;
  for (const float value : values) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

/// Scratch that a thread keeps from range to range.
std::span<float> thread_floats(int64_t n) {
  thread_local std::vector<float> floats;
  floats.resize(std::max(floats.size(), static_cast<size_t>(n)));
  return std::span(floats).first(static_cast<size_t>(n));
}

void encode_rows(std::span<const float> values, int64_t cols, DType dtype, std::span<std::byte> blocks) {
  const auto n = static_cast<size_t>(cols);
  const auto row_bytes = static_cast<size_t>(quant::row_bytes(dtype, cols));
  assert(values.size() % n == 0 && blocks.size() == values.size() / n * row_bytes);
  for (size_t row = 0; row < values.size() / n; ++row) {
    quant::quantize_row(dtype, values.subspan(row * n, n), blocks.subspan(row * row_bytes, row_bytes));
  }
}

}  // namespace

/// The ranges of all slices of a tensor, numbered in the order of the file.
class MatrixWriter::Ranges {
 public:
  Ranges(const Tensor& tensor, int64_t range_rows)
      : rows_(tensor.ne[1]),
        range_rows_(range_rows),
        per_slice_((rows_ + range_rows - 1) / range_rows),
        slices_(tensor.ne[2] * tensor.ne[3]) {}

  [[nodiscard]] int64_t slices() const { return slices_; }
  [[nodiscard]] int64_t per_slice() const { return per_slice_; }
  [[nodiscard]] int64_t count() const { return slices_ * per_slice_; }
  [[nodiscard]] RowRange at(int64_t i) const {
    const int64_t first = i % per_slice_ * range_rows_;
    return {i / per_slice_, first, std::min(range_rows_, rows_ - first)};
  }
  /// Rows of the tensor before range i; all of them for i = count().
  [[nodiscard]] int64_t rows_before(int64_t i) const {
    return i / per_slice_ * rows_ + i % per_slice_ * range_rows_;
  }

 private:
  int64_t rows_;
  int64_t range_rows_;
  int64_t per_slice_;
  int64_t slices_;
};

int64_t rows_per_task(int64_t rows, int64_t cols) {
  return std::clamp<int64_t>(kTaskFloats / cols, 1, rows);
}

MatrixWriter::MatrixWriter(quant::GgufWriter& writer, ProgressMeter& progress, offload::Workers& workers)
    : writer_(writer), progress_(progress), workers_(workers) {}

void MatrixWriter::for_each(int64_t begin, int64_t end, const std::function<void(int64_t)>& make) {
  std::mutex mutex;
  std::exception_ptr failure;
  int64_t failed = std::numeric_limits<int64_t>::max();
  workers_.for_ranges(end - begin, 1, [&](int64_t first, int64_t last, int64_t) {
    for (int64_t i = begin + first; i < begin + last; ++i) {
      try {
        make(i);
      } catch (...) {
        const std::scoped_lock lock(mutex);
        if (i < failed) {
          failed = i;
          failure = std::current_exception();
        }
      }
    }
  });
  if (failure) {
    std::rethrow_exception(failure);
  }
}

void MatrixWriter::write_ranges(const Tensor& target, const Ranges& ranges, int64_t begin, int64_t end,
                                const MakeBlocks& make) {
  const int64_t row_bytes = quant::row_bytes(target.dtype, target.ne[0]);
  const int64_t batch = kTasksPerWorker * workers_.threads();
  for (int64_t first = begin; first < end; first += batch) {
    const int64_t last = std::min(first + batch, end);
    const int64_t base = ranges.rows_before(first);
    blocks_.resize(static_cast<size_t>((ranges.rows_before(last) - base) * row_bytes));
    for_each(first, last, [&](int64_t i) {
      const RowRange range = ranges.at(i);
      make(range, std::span(blocks_).subspan(static_cast<size_t>((ranges.rows_before(i) - base) * row_bytes),
                                             static_cast<size_t>(range.rows * row_bytes)));
    });
    writer_.write(blocks_);
    progress_.wrote(target, static_cast<int64_t>(blocks_.size()));
  }
}

void MatrixWriter::write_bytes(const Tensor& target, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<const std::byte> piece = bytes.first(std::min(bytes.size(), kCopyBytes));
    // Not from a mapped file straight into write(), which would call a page that cannot be read a bad
    // address.
    blocks_.assign(piece.begin(), piece.end());
    writer_.write(blocks_);
    progress_.wrote(target, static_cast<int64_t>(piece.size()));
    bytes = bytes.subspan(piece.size());
  }
}

void MatrixWriter::write_blocks(const Tensor& target, int64_t range_rows, const MakeBlocks& make) {
  const Ranges ranges(target, range_rows);
  write_ranges(target, ranges, 0, ranges.count(), make);
}

void MatrixWriter::write_matrices(const Tensor& target, const MatrixStack& stack) {
  const int64_t cols = target.ne[0];
  write_blocks(target, stack.rows_per_read, [&](const RowRange& range, std::span<std::byte> blocks) {
    const std::span<float> values = thread_floats(range.rows * cols);
    stack.read(range, values);
    encode_rows(values, cols, target.dtype, blocks);
  });
}

std::vector<float> MatrixWriter::second_scales(const Tensor& target, const Ranges& ranges, int64_t begin,
                                               int64_t end, const ReadRows& read) {
  const int64_t cols = target.ne[0];
  const int64_t first = begin * ranges.per_slice();
  std::vector<float> largest(static_cast<size_t>((end - begin) * ranges.per_slice()));
  const int64_t batch = kTasksPerWorker * workers_.threads();
  for (int64_t i = first; i < end * ranges.per_slice(); i += batch) {
    if (i > first) {
      progress_.wrote(target, 0);  // a large slice takes long to look through
    }
    for_each(i, std::min(i + batch, end * ranges.per_slice()), [&](int64_t task) {
      const RowRange range = ranges.at(task);
      const std::span<float> values = thread_floats(range.rows * cols);
      read(range, values);
      largest[static_cast<size_t>(task - first)] = largest_magnitude(values);
    });
  }
  std::vector<float> scales;
  for (auto part = largest.begin(); part != largest.end(); part += ranges.per_slice()) {
    const float whole = *std::max_element(part, part + ranges.per_slice());
    scales.push_back(whole > kNegligible ? whole / quant::kNvfp4Largest : 1.0F);
  }
  return scales;
}

std::vector<float> MatrixWriter::write_scaled_nvfp4(const Tensor& target, const MatrixStack& stack) {
  const int64_t cols = target.ne[0];
  const Ranges ranges(target, stack.rows_per_read);
  // Both passes over a few slices before the next: the second then reads from memory what the first read from
  // disk.
  const int64_t step = std::max<int64_t>(1, kTasksPerWorker * workers_.threads() / ranges.per_slice());
  std::vector<float> scales;
  for (int64_t begin = 0; begin < ranges.slices(); begin += step) {
    const int64_t end = std::min(begin + step, ranges.slices());
    const std::vector<float> some = second_scales(target, ranges, begin, end, stack.read);
    scales.insert(scales.end(), some.begin(), some.end());
    write_ranges(target, ranges, begin * ranges.per_slice(), end * ranges.per_slice(),
                 [&](const RowRange& range, std::span<std::byte> blocks) {
                   const std::span<float> values = thread_floats(range.rows * cols);
                   stack.read(range, values);
                   for (float& value : values) {
                     value /= scales[static_cast<size_t>(range.slice)];
                   }
                   encode_rows(values, cols, DType::kNVFP4, blocks);
                 });
  }
  return scales;
}

}  // namespace sluice::convert
