// Non-owning views of dense data: a pointer, a shape and a stride. Trivially copyable, passed by value.
#pragma once

#include <cassert>
#include <cstdint>
#include <span>
#include <type_traits>

namespace sluice {

/// A row-major matrix in memory that somebody else owns. Row r starts at data + r * row_stride.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // in elements, >= cols

  MatrixView() = default;
  MatrixView(T* data_, int64_t rows_, int64_t cols_) : MatrixView(data_, rows_, cols_, cols_) {}
  MatrixView(T* data_, int64_t rows_, int64_t cols_, int64_t row_stride_)
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_) {
    assert(row_stride >= cols);
  }
  /// A mutable view reads as a const one.
  template <typename U>
    requires(std::is_const_v<T> && std::is_same_v<std::remove_const_t<T>, U>)
  MatrixView(MatrixView<U> other)  // NOLINT(google-explicit-constructor): the point of it
      : MatrixView(other.data, other.rows, other.cols, other.row_stride) {}

  [[nodiscard]] std::span<T> row(int64_t r) const {
    assert(r >= 0 && r < rows);
    return {data + r * row_stride, static_cast<size_t>(cols)};
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] MatrixView rows_from(int64_t begin, int64_t count) const {
    assert(begin >= 0 && begin + count <= rows);
    return {data + begin * row_stride, count, cols, row_stride};
  }
  /// Columns [begin, begin + count) of every row.
  [[nodiscard]] MatrixView cols_from(int64_t begin, int64_t count) const {
    assert(begin >= 0 && begin + count <= cols);
    return {data + begin, rows, count, row_stride};
  }
};

}  // namespace sluice
