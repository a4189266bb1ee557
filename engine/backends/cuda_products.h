// Products of weights in panels with any number of tokens on the GPU: up to eight by GEMV, more through bf16
// and cuBLAS, or eight by eight where nothing may be rounded.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "engine/backends/gpu_working_memory.h"
#include "kernels_cuda/blas.h"
#include "kernels_cuda/gemv.h"
#include "kernels_cuda/matmul.h"
#include "quant/panel.h"

namespace sluice {

/// Rows of floats on the GPU, without gaps.
struct CudaRows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  /// Rows [begin, begin + count).
  [[nodiscard]] CudaRows rows_from(int64_t begin, int64_t count) const {
    return {data + begin * cols, count, cols};
  }
};

/// y = x W^T with w's scale; y.cols = w.rows.
struct CudaProduct {
  quant::PanelView w;
  CudaRows y;
  CudaRounding rounding = CudaRounding::kAllowed;  // kNone counts here or in CudaProductShape
};

class CudaProducts {
 public:
  /// What products of many tokens work with.
  struct Bf16 {
    cuda::MatmulScratch scratch;
    cuda::Blas blas;
  };

  /// Throws Error when memory cannot be had.
  explicit CudaProducts(const CudaProductShape& shape);

  /// Products that share x, at most kMostGemvProducts. Nothing here waits.
  void multiply(std::span<const CudaProduct> products, CudaRows x, cudaStream_t stream) const;
  /// Free to others in the same stream between the calls here; null where nothing is rounded.
  [[nodiscard]] const Bf16* bf16() const { return bf16_.has_value() ? &*bf16_ : nullptr; }
  /// out = SwiGLU of gate and up; `spare` has the shape of out.
  void swiglu(const quant::PanelView& gate, const quant::PanelView& up, CudaRows x, CudaRows out,
              CudaRows spare, cudaStream_t stream) const;

 private:
  void multiply_exactly(std::span<const CudaProduct> products, CudaRows x, cudaStream_t stream) const;
  void multiply_few(std::span<const CudaProduct> products, CudaRows x, cudaStream_t stream) const;

  cuda::GemvScratch gemv_;
  std::optional<Bf16> bf16_;  // none where nothing is rounded
};

}  // namespace sluice
