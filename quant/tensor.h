// Tensors as they lie in a file, and the two-dimensional view of quantized rows that kernels read.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "quant/dtype.h"

namespace sluice::quant {

/// Rows of quantized blocks, row-major: row r is the `cols` inputs of output r. Non-owning, trivially
/// copyable.
struct WeightView {
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_bytes = 0;
  float scale = 1.0F;  // second-level NVFP4 scale: multiplies the product (spec: docs/formats.md)

  [[nodiscard]] const std::byte* row(int64_t r) const {
    assert(r >= 0 && r < rows);
    return data + r * row_bytes;
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] WeightView rows_from(int64_t begin, int64_t count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= rows);
    return {dtype, data + begin * row_bytes, count, cols, row_bytes, scale};
  }
};

/// A named tensor of a file. `bytes` points into the mapping; the file object must outlive it. Empty where
/// only the tensor's name, type and shape are known.
struct Tensor {
  std::string name;
  DType dtype = DType::kF32;
  int n_dims = 1;
  std::array<int64_t, 4> ne{1, 1, 1, 1};  // ggml order: ne[0] is contiguous, the input dimension of a matrix
  std::span<const std::byte> bytes;

  [[nodiscard]] int64_t elements() const { return ne[0] * ne[1] * ne[2] * ne[3]; }
  /// What type and shape come to, whether `bytes` is there or not.
  [[nodiscard]] int64_t data_bytes() const { return row_bytes(dtype, elements()); }
  /// The whole tensor as [ne1 * ne2 * ne3, ne0].
  [[nodiscard]] WeightView matrix() const {
    return {dtype, bytes.data(), ne[1] * ne[2] * ne[3], ne[0], row_bytes(dtype, ne[0]), 1.0F};
  }
  /// Slice i of the third dimension as [ne1, ne0]: one expert, or one head of attn_k_b.
  [[nodiscard]] WeightView matrix(int64_t i) const { return matrix().rows_from(i * ne[1], ne[1]); }
};

/// "{7168, 2048, 256}" for messages and tables.
std::string shape_text(const Tensor& tensor);

}  // namespace sluice::quant
