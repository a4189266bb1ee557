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
  MatrixView(T* first, int64_t n_rows, int64_t n_cols) : MatrixView(first, n_rows, n_cols, n_cols) {}
  MatrixView(T* first, int64_t n_rows, int64_t n_cols, int64_t stride)
      : data(first), rows(n_rows), cols(n_cols), row_stride(stride) {
    assert(row_stride >= cols);
  }
  /// A mutable view reads as a const one, hence no `explicit`.
  template <typename U>
  requires std::is_same_v<T, const U> MatrixView(MatrixView<U> other)
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
