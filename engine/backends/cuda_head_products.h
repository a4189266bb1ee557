// Absorbed attention's products with a matrix for each head (model formula 2.5, steps 1 and 4), for the
// tokens of a tile, some at a time: in float32, or of many tokens through bf16 and cuBLAS, as all products.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/backends/cuda_activations.h"
#include "engine/backends/cuda_products.h"
#include "engine/backends/cuda_weights.h"
#include "engine/caches.h"
#include "engine/model_config.h"
#include "kernels_cuda/mla.h"

namespace sluice {

class CudaHeadProducts {
 public:
  struct Parts {
    const ModelConfig& config;
    const CudaLayer& layer;
    const CudaActivations& buffers;
    const CudaProducts& products;  // whose memory for decoded weights it takes until the tile is done
  };
  /// For a tile of `n_tokens` tokens, whose cache has latents of `cache`: enqueues the decoding of the
  /// layer's matrices where products are rounded. References are kept. Nothing here waits; throws Error when
  /// CUDA or cuBLAS refuses.
  CudaHeadProducts(const Parts& parts, int64_t n_tokens, CacheType cache, cudaStream_t stream);

  /// Of absorbed queries and attended latents, which lie in buffers.absorbed_query and buffers.attended.
  [[nodiscard]] cuda::FloatType type() const {
    return is_rounded() ? cuda::FloatType::kBf16 : cuda::FloatType::kF32;
  }
  /// Step 1: queries [n, heads, d_nope + d_rope] into latent space [n, heads, d_latent + d_rope], rope part
  /// behind. n is at most a step's tokens.
  void absorb(const float* queries, int64_t n, cudaStream_t stream) const;
  /// Step 4: attended latents [n, heads, d_latent] to values [n, heads, d_value].
  void expand(float* values, int64_t n, cudaStream_t stream) const;

 private:
  /// In the memory of the products' decoded weights.
  struct Rounded {
    uint16_t* key_b = nullptr;    // [heads, d_latent, d_nope]
    uint16_t* value_b = nullptr;  // [heads, d_value, d_latent]
    uint16_t* queries = nullptr;  // [step, heads, d_nope]
  };
  static Rounded take(const Parts& parts, DeviceLayout& layout);

  [[nodiscard]] bool is_rounded() const { return rounded_.key_b != nullptr; }
  [[nodiscard]] bool rounds(int64_t n_tokens, CacheType cache) const;
  void absorb_exactly(const float* queries, int64_t n, cudaStream_t stream) const;
  void absorb_rounded(const float* queries, int64_t n, cudaStream_t stream) const;
  void expand_exactly(float* values, int64_t n, cudaStream_t stream) const;
  void expand_rounded(float* values, int64_t n, cudaStream_t stream) const;

  Parts parts_;
  Rounded rounded_;  // null where nothing is rounded
};

}  // namespace sluice
