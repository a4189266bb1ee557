// Random rows of a tensor, made as the blocks that lie in a file: nothing is quantized. A row depends on the
// seed, the tensor's name and the row's number alone, so that any thread may make any part of a tensor.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/tensor.h"

namespace sluice::synth {

/// How the elements of a tensor are distributed. Those of a quantized or BF16 tensor have mean 0.
struct Distribution {
  float mean = 0.0F;
  float deviation = 1.0F;  // in NVFP4 before the second-level scale
};

class RowGenerator {
 public:
  /// `tensor` needs a name, a type (F32, BF16, Q8_0, NVFP4 or Q4_K) and a shape.
  RowGenerator(const quant::Tensor& tensor, const Distribution& distribution, uint64_t seed);

  /// Rows first_row and on of the tensor as [ne1 * ne2 * ne3, ne0]; bytes.size() is a multiple of a row's
  /// bytes. May be called by several threads at once.
  void write(int64_t first_row, std::span<std::byte> bytes) const;

 private:
  quant::DType dtype_;
  size_t row_bytes_;
  uint64_t key_;  // of seed and name
  Distribution distribution_;
  // A block's scale is one of 16 around the one that gives the deviation. Q8_0 and Q4_K: d as f16; NVFP4:
  // codes of e4m3; BF16: only the first, the bits of the smallest magnitude.
  std::array<uint16_t, 16> scales_{};
  std::array<uint16_t, 16> minima_{};  // Q4_K: dmin as f16
};

}  // namespace sluice::synth
