// New rows of the caches, from the projections to what is stored, in one launch each (model formulas 2.2
// and 2.6; layouts: model specification 3.1).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

/// Positions and rotation of the tokens. Row p of cos_sin [positions, d_rope] is what cpu::rope_angles gives
/// for position p. A token's cache row is its position.
struct TokenPositions {
  const int32_t* positions = nullptr;  // [n_tokens]
  const float* cos_sin = nullptr;
  int64_t n_tokens = 0;
};

inline constexpr int64_t kMostLatent = 1024;

/// u = W_kva a -> latent = RMSNorm(u[0, d_latent)), key = interleaved rope of u[d_latent, d_latent + d_rope).
struct LatentWrite {
  const float* u = nullptr;  // [n_tokens, d_latent + d_rope]
  int64_t u_stride = 0;
  const float* gain = nullptr;  // [d_latent]
  float eps = 1e-6F;
  int64_t d_latent = 512;  // at most kMostLatent
  int64_t d_rope = 64;     // even
  void* rows = nullptr;    // row r starts at byte r * row_bytes; both multiples of 4
  int64_t row_bytes = 0;
};

/// Rows of d_latent + d_rope floats. Throws Error for shapes beyond the limits and when CUDA refuses the
/// launch, as do all calls here; none waits.
void write_latent_f32(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream);
/// Rows of d_latent + d_rope bf16: 1152 bytes at 512 + 64.
void write_latent_bf16(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream);
/// Rows of d_latent e4m3 codes, a float scale for each 128 of them (the power of two 2^ceil(log2(max(amax,
/// 1e-4) / 448))), and d_rope bf16: 656 bytes at 512 + 64. d_latent is a multiple of 128.
void write_latent_fp8(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream);

inline constexpr int64_t kMostIndex = 256;

/// k = W_Ik a -> LayerNorm, then half-split rope of the first d_rope values.
struct IndexKeyWrite {
  const float* k = nullptr;  // [n_tokens, d_index]
  int64_t k_stride = 0;
  const float* gain = nullptr;  // [d_index]
  const float* bias = nullptr;  // [d_index]
  float eps = 1e-6F;
  int64_t d_index = 128;  // at most kMostIndex
  int64_t d_rope = 64;    // even, at most d_index
};

/// keys [rows, d_index].
void write_index_keys_f32(const IndexKeyWrite& write, const TokenPositions& tokens, float* keys,
                          cudaStream_t stream);
void write_index_keys_bf16(const IndexKeyWrite& write, const TokenPositions& tokens, uint16_t* keys,
                           cudaStream_t stream);
/// After the orthonormal Hadamard transform (d_index a power of two): codes [rows, d_index] in [-127, 127],
/// key = code * scale, scale = amax / 127, 0 for a key of zeros; scales [rows].
void write_index_keys_int8(const IndexKeyWrite& write, const TokenPositions& tokens, int8_t* codes,
                           float* scales, cudaStream_t stream);

}  // namespace sluice::cuda
