// The gate of SwiGLU.
#pragma once

namespace sluice::cuda {

__device__ __forceinline__ float silu(float x) {
  return x / (1.0F + expf(-x));
}

}  // namespace sluice::cuda
