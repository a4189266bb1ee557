// Rotary position embedding in both layouts, and the Hadamard transform of the indexer's vectors: the bits of
// kernels_cpu/rope.h and kernels_cpu/hadamard.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

enum class RopeLayout {
  kInterleaved,  // pairs (x[2i], x[2i+1]): MLA queries and keys
  kHalfSplit,    // pairs (x[i], x[i + dims/2]): indexer queries and keys
};

/// Vectors of `dims` floats inside longer ones, in place: head h of token t is at x + t * token_stride + h *
/// head_stride.
struct RopeParams {
  float* x = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t n_tokens = 0;
  int64_t n_heads = 1;
  int64_t dims = 64;  // even
  RopeLayout layout = RopeLayout::kInterleaved;
  const float* cos_sin = nullptr;  // [positions, dims]: row p is what cpu::rope_angles gives for position p
  const int32_t* positions = nullptr;  // [n_tokens], each below the rows of cos_sin
};

/// Throws Error for an odd `dims` and when CUDA refuses the launch. Does not wait.
void rope(const RopeParams& params, cudaStream_t stream);

inline constexpr int64_t kMostHadamard = 1024;

/// x <- H x / sqrt(n) for `count` vectors of n floats, one after the other; n a power of two up to
/// kMostHadamard.
void hadamard(float* x, int64_t count, int64_t n, cudaStream_t stream);

}  // namespace sluice::cuda
