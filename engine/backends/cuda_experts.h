// Routed experts computed on the GPU that holds them: few tokens, and whatever must not be rounded or is not
// quantized, by products with the chosen matrices. Others meet all of a pass's tokens (cuda_pass_experts.h).
#pragma once

#include <cstdint>

#include "engine/backends/cuda_arena.h"
#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/gpu_working_memory.h"

namespace sluice {

/// The experts that tokens chose. On the GPU.
struct CudaRoutes {
  const int32_t* ids = nullptr;    // [n_tokens, used]
  const float* weights = nullptr;  // [n_tokens, used]
  int64_t n_tokens = 0;
};

class CudaExperts {
 public:
  /// Throws Error when memory cannot be had.
  explicit CudaExperts(const CudaExpertShape& shape);

  /// y[t] += sum_k weights[t][k] * down(silu(gate f[t]) * up f[t]) of the experts that t chose, ascending. f
  /// and y [n_tokens, d_model]. Nothing here waits.
  void add(const CudaExpertLayer& layer, const CudaRoutes& routes, const float* f, float* y,
           cudaStream_t stream) const;

 private:
  void add_few(const CudaExpertLayer& layer, const CudaRoutes& routes, const float* f, float* y,
               cudaStream_t stream) const;

  CudaExpertShape shape_;
  CudaArena arena_;
  CudaExpertBuffers buffers_;
};

}  // namespace sluice
