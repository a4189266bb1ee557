#include "engine/backends/cuda_cache.h"

#include <fmt/format.h>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int64_t kAlignment = 256;

constexpr int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t element_size(CacheType type) {
  return type == CacheType::kF32 ? 4 : 2;
}

int64_t latent_bytes(const ModelConfig& config, int64_t capacity, CacheType type) {
  return aligned(capacity * config.d_cache() * element_size(type));
}

int64_t index_bytes(const ModelConfig& config, int64_t capacity, CacheType type) {
  return config.has_indexer ? aligned(capacity * config.d_index * element_size(type)) : 0;
}

/// `bytes`, once it is known that the GPU has them.
int64_t checked_bytes(int64_t bytes, int64_t capacity) {
  const int64_t free = cuda::device_memory().free_bytes;
  if (bytes > free) {
    throw Error(
        "-c/--ctx-size",
        fmt::format("a context whose cache fits on the GPU ({} tokens need {:.2f} GB; -ngl 0 keeps it "
                    "in memory)",
                    capacity, static_cast<double>(bytes) / 1e9),
        fmt::format("{:.2f} GB free", static_cast<double>(free) / 1e9));
  }
  return bytes;
}

}  // namespace

CudaCache::CudaCache(const ModelConfig& config, int64_t capacity, CacheType type)
    : KvCache(config, capacity, type),
      latent_bytes_(latent_bytes(config, capacity, type)),
      layer_bytes_(latent_bytes_ + index_bytes(config, capacity, type)),
      memory_(checked_bytes(bytes_needed(config, capacity, type), capacity)) {}

int64_t CudaCache::bytes_needed(const ModelConfig& config, int64_t capacity, CacheType type) {
  return config.layers * (latent_bytes(config, capacity, type) + index_bytes(config, capacity, type));
}

std::byte* CudaCache::rows(CachePart part, int64_t layer) const {
  return memory_.data() + layer * layer_bytes_ + (part == CachePart::kLatent ? 0 : latent_bytes_);
}

cuda::LatentRows CudaCache::latent_rows(int64_t layer) const {
  return {.data = rows(CachePart::kLatent, layer),
          .format = type() == CacheType::kF32 ? cuda::LatentFormat::kF32 : cuda::LatentFormat::kBf16,
          .n_rows = capacity(),
          .row_bytes = row_bytes(CachePart::kLatent)};
}

cuda::IndexKeys CudaCache::index_keys(int64_t layer) const {
  return {.values = rows(CachePart::kIndexKeys, layer),
          .format = type() == CacheType::kF32 ? cuda::IndexKeyFormat::kF32 : cuda::IndexKeyFormat::kBf16,
          .n_keys = capacity()};
}

void CudaCache::copy_out(CachePart part, int64_t layer, std::span<std::byte> rows_out) const {
  cuda::check(cudaDeviceSynchronize(), "waiting for the cache");
  cuda::check(cudaMemcpy(rows_out.data(), rows(part, layer), rows_out.size(), cudaMemcpyDeviceToHost),
              "reading the cache");
}

void CudaCache::copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows_in) {
  cuda::check(cudaDeviceSynchronize(), "waiting for the cache");
  cuda::check(cudaMemcpy(rows(part, layer), rows_in.data(), rows_in.size(), cudaMemcpyHostToDevice),
              "writing the cache");
}

}  // namespace sluice
