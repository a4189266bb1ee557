// The one home of cuBLAS: large matrix products of bf16.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace sluice::cuda {

/// y [n, m] = scale * x [n, k] w^T with w [m, k], all row-major; x and w bf16, y and the sums float32.
/// Strides in elements; everything lies on the GPU, 16-byte aligned.
struct BlasProduct {
  const uint16_t* w;
  int64_t w_stride;
  const uint16_t* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  int64_t m;
  int64_t n;
  int64_t k;
  float scale = 1.0F;
};

/// A cuBLAS handle of this thread's GPU with its workspace; one stream at a time. Move-only.
class Blas {
 public:
  /// Throws Error, as does multiply.
  Blas();
  ~Blas();
  Blas(Blas&&) noexcept;
  Blas& operator=(Blas&&) noexcept;

  void multiply(const BlasProduct& product, cudaStream_t stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::cuda
