// NumPy's .npy files: writing C-order float32 and int32 arrays, reading one-dimensional int32 ones.
// Layout (NumPy's format description, version 1.0): magic "\x93NUMPY" 1 0, u16 header length, a Python
// dictionary padded with spaces and a newline so that the data begins at a multiple of 64, then the elements,
// little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/base/output_file.h"
#include "quant/base/view.h"

namespace sluice::cli {

/// An array written row by row: the shape is known, the values come in any number of pieces. T is float or
/// int32_t.
template <typename T>
class NpyFile {
 public:
  /// Shape outermost first. Written aside until commit(). Throws Error naming the path.
  NpyFile(const std::filesystem::path& path, const std::vector<int64_t>& shape);

  /// Appends elements. Throws Error when the disk is full.
  void write(std::span<const T> values);
  /// Appends all rows of a matrix.
  void write(MatrixView<const T> values);
  /// The file appears. Every element must have been written.
  void commit();

 private:
  OutputFile file_;
  int64_t missing_;  // elements still to come
};

/// Whether `bytes` begin as a .npy file does.
bool is_npy(std::string_view bytes);
/// The elements of a one-dimensional int32 or int64 array. Throws Error naming `source` when it is anything
/// else.
std::vector<int64_t> parse_npy_ids(std::string_view bytes, const std::string& source);

}  // namespace sluice::cli
