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
  const int32_t* ids = nullptr;    // [n_tokens, used]; where the layer's experts are slots, those
  const float* weights = nullptr;  // [n_tokens, used]
  int64_t n_tokens = 0;
  /// [n_tokens, used]: 0, 1, 2 ..., but -1 where the id is below 0 because the expert is not here; null: all
  /// are. With it n_tokens is at most kFewExpertTokens.
  const int32_t* parts = nullptr;
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
