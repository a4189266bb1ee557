#include "engine/backends/gpu_cache_layout.h"

#include "engine/backends/device_layout.h"

namespace sluice {
namespace {

constexpr int64_t kScaleBytes = sizeof(float);

}  // namespace

cuda::LatentFormat gpu_latent_format(CacheType type) {
  return type == CacheType::kF32 ? cuda::LatentFormat::kF32
         : has_fp8_latents(type) ? cuda::LatentFormat::kFp8
                                 : cuda::LatentFormat::kBf16;
}

cuda::IndexKeyFormat gpu_index_format(CacheType type) {
  return type == CacheType::kF32 ? cuda::IndexKeyFormat::kF32
         : has_int8_keys(type)   ? cuda::IndexKeyFormat::kInt8
                                 : cuda::IndexKeyFormat::kBf16;
}

GpuCacheLayout gpu_cache_layout(const ModelConfig& config, int64_t capacity, CacheType type) {
  const int64_t keys = config.has_indexer ? capacity : 0;
  const int64_t latent_row = cuda::latent_row_bytes(gpu_latent_format(type), config.d_latent, config.d_rope);
  const int64_t key = cuda::index_key_bytes(gpu_index_format(type), config.d_index);
  return {.latents = DeviceLayout::aligned(capacity * latent_row),
          .index_keys = DeviceLayout::aligned(keys * key),
          .index_scales = has_int8_keys(type) ? DeviceLayout::aligned(keys * kScaleBytes) : 0};
}

}  // namespace sluice
