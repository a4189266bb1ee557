// Shapes as text, and views of a tensor's matrices.
#include "quant/tensor.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice::quant {
namespace {

TEST(Tensor, ShapeText) {
  Tensor tensor;
  tensor.n_dims = 3;
  tensor.ne = {7168, 2048, 256, 1};
  EXPECT_EQ(shape_text(tensor), "{7168, 2048, 256}");
  tensor.n_dims = 1;
  EXPECT_EQ(shape_text(tensor), "{7168}");
  tensor.n_dims = 4;
  EXPECT_EQ(shape_text(tensor), "{7168, 2048, 256, 1}");
}

TEST(Tensor, MatricesOfAStack) {
  const std::vector<std::byte> bytes(size_t{3} * 5 * 2 * 34);
  Tensor tensor;
  tensor.dtype = DType::kQ8_0;
  tensor.n_dims = 3;
  tensor.ne = {64, 5, 3, 1};
  tensor.bytes = bytes;
  EXPECT_EQ(tensor.elements(), 960);
  EXPECT_EQ(tensor.data_bytes(), 5 * 3 * 68);
  EXPECT_EQ(tensor.matrix().rows, 15);
  const WeightView slice = tensor.matrix(2);
  EXPECT_EQ(slice.rows, 5);
  EXPECT_EQ(slice.cols, 64);
  EXPECT_EQ(slice.row_bytes, 68);
  EXPECT_EQ(slice.row(4), &bytes[size_t{2 * 5 + 4} * 68]);
}

}  // namespace
}  // namespace sluice::quant
