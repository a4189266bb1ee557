// The engine's one home of cuBLAS: large matrix products of bf16, and of floats where nothing may be rounded.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace sluice::cuda {

/// y [n, m] = scale * x [n, k] w^T with w [m, k], all row-major; y and the sums float32. Strides in elements;
/// everything lies on the GPU, 16-byte aligned.
template <typename T>
struct BlasProductOf {
  const T* w;
  int64_t w_stride;
  const T* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  int64_t m;
  int64_t n;
  int64_t k;
  float scale = 1.0F;
};
using BlasProduct = BlasProductOf<uint16_t>;    // bf16
using BlasFloatProduct = BlasProductOf<float>;  // float32, multiplied as such

/// y[b] [n, m] = scale * x[b] [n, k] w[b]^T for `count` matrices; weights and x bf16, y bf16 or float32, the
/// sums float32. Strides in elements.
template <typename Y>
struct BlasBatchOf {
  enum class Weights {
    kRows,     // w[b] is [m, k]
    kColumns,  // w[b] is [k, m]
  };
  const uint16_t* w;
  int64_t w_stride;         // from row to row
  int64_t w_matrix_stride;  // from matrix to matrix
  Weights weights = Weights::kRows;
  const uint16_t* x;
  int64_t x_stride;
  int64_t x_matrix_stride = 0;  // 0: all meet the same x
  Y* y;
  int64_t y_stride;
  int64_t y_matrix_stride;
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t count;
  float scale = 1.0F;
};
using BlasBatch = BlasBatchOf<uint16_t>;    // bf16
using BlasFloatBatch = BlasBatchOf<float>;  // to float32

/// A cuBLAS handle of this thread's GPU with its workspace; one stream at a time. Move-only.
class Blas {
 public:
  /// Throws Error, as does multiply.
  Blas();
  ~Blas();
  Blas(Blas&&) noexcept;
  Blas& operator=(Blas&&) noexcept;

  void multiply(const BlasProduct& product, cudaStream_t stream) const;
  void multiply(const BlasFloatProduct& product, cudaStream_t stream) const;
  void multiply(const BlasBatch& batch, cudaStream_t stream) const;
  void multiply(const BlasFloatBatch& batch, cudaStream_t stream) const;

 private:
  void use(cudaStream_t stream) const;
  template <typename Y>
  void multiply_batch(const BlasBatchOf<Y>& batch, cudaStream_t stream) const;

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::cuda
