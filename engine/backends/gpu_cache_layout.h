// How a layer's rows of the cache lie in the memory of a GPU: latent rows, index keys, and behind int8 keys
// their scales. Without CUDA.
#pragma once

#include <cstdint>

#include "engine/caches.h"
#include "engine/model_config.h"
#include "kernels_cuda/index_key_format.h"
#include "kernels_cuda/latent_rows.h"

namespace sluice {

cuda::LatentFormat gpu_latent_format(CacheType type);
cuda::IndexKeyFormat gpu_index_format(CacheType type);

/// Bytes, of one layer; each part begins at a multiple of 256.
struct GpuCacheLayout {
  int64_t latents = 0;
  int64_t index_keys = 0;    // their values; 0 without an indexer
  int64_t index_scales = 0;  // of int8 keys, behind the values

  [[nodiscard]] int64_t layer() const { return latents + index_keys + index_scales; }
};
GpuCacheLayout gpu_cache_layout(const ModelConfig& config, int64_t capacity, CacheType type);

}  // namespace sluice
