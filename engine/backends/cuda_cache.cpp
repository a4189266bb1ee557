#include "engine/backends/cuda_cache.h"

#include <fmt/format.h>

#include <cassert>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kScaleBytes = sizeof(float);

constexpr int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

cuda::LatentFormat latent_format(CacheType type) {
  return type == CacheType::kF32 ? cuda::LatentFormat::kF32
         : has_fp8_latents(type) ? cuda::LatentFormat::kFp8
                                 : cuda::LatentFormat::kBf16;
}

cuda::IndexKeyFormat index_format(CacheType type) {
  return type == CacheType::kF32 ? cuda::IndexKeyFormat::kF32
         : has_int8_keys(type)   ? cuda::IndexKeyFormat::kInt8
                                 : cuda::IndexKeyFormat::kBf16;
}

int64_t latent_bytes(const ModelConfig& config, int64_t capacity, CacheType type) {
  return aligned(capacity * cuda::latent_row_bytes(latent_format(type), config.d_latent, config.d_rope));
}

/// The keys' values, without the scales behind them.
int64_t index_value_bytes(const ModelConfig& config, int64_t capacity, CacheType type) {
  return config.has_indexer ? aligned(capacity * cuda::index_key_bytes(index_format(type), config.d_index))
                            : 0;
}

int64_t index_scale_bytes(const ModelConfig& config, int64_t capacity, CacheType type) {
  return config.has_indexer && has_int8_keys(type) ? aligned(capacity * kScaleBytes) : 0;
}

/// `bytes`, once it is known that the GPU has them.
int64_t checked_bytes(int64_t bytes, int64_t capacity) {
  const int64_t free = cuda::device_memory().free_bytes;
  if (bytes > free) {
    throw Error("-c/--ctx-size",
                fmt::format("a context whose cache fits on the GPU ({} tokens need {:.2f} GB; -ngl with "
                            "fewer layers keeps more of it in memory)",
                            capacity, static_cast<double>(bytes) / 1e9),
                fmt::format("{:.2f} GB free", static_cast<double>(free) / 1e9));
  }
  return bytes;
}

}  // namespace

CudaCache::CudaCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type)
    : KvCache(config, layers, capacity, type),
      latent_bytes_(latent_bytes(config, capacity, type)),
      scales_at_(latent_bytes_ + index_value_bytes(config, capacity, type)),
      layer_bytes_(scales_at_ + index_scale_bytes(config, capacity, type)),
      memory_(checked_bytes(bytes_needed(config, layers, capacity, type), capacity)) {}

int64_t CudaCache::bytes_needed(const ModelConfig& config, LayerRange layers, int64_t capacity,
                                CacheType type) {
  return layers.count() * (latent_bytes(config, capacity, type) + index_value_bytes(config, capacity, type) +
                           index_scale_bytes(config, capacity, type));
}

std::byte* CudaCache::layer_data(int64_t layer) const {
  assert(layers().has(layer));
  return memory_.data() + (layer - layers().begin) * layer_bytes_;
}

std::byte* CudaCache::rows(CachePart part, int64_t layer) const {
  return layer_data(layer) + (part == CachePart::kLatent ? 0 : latent_bytes_);
}

float* CudaCache::index_scales(int64_t layer) const {
  return has_int8_keys(type()) ? reinterpret_cast<float*>(layer_data(layer) + scales_at_) : nullptr;
}

cuda::LatentRows CudaCache::latent_rows(int64_t layer) const {
  return {.data = rows(CachePart::kLatent, layer),
          .format = latent_format(type()),
          .n_rows = capacity(),
          .row_bytes = row_bytes(CachePart::kLatent)};
}

cuda::IndexKeys CudaCache::index_keys(int64_t layer) const {
  return {.values = rows(CachePart::kIndexKeys, layer),
          .scales = index_scales(layer),
          .format = index_format(type()),
          .n_keys = capacity()};
}

// A row of int8 keys ends with its scale; here the scales lie in an array of their own.
CudaCache::RowPieces CudaCache::pieces(CachePart part, int64_t layer, int64_t bytes) const {
  const auto row = static_cast<size_t>(row_bytes(part));
  const bool apart = part == CachePart::kIndexKeys && has_int8_keys(type());
  return {.rows = row == 0 ? 0 : static_cast<size_t>(bytes) / row,
          .row = row,
          .value = row - (apart ? static_cast<size_t>(kScaleBytes) : 0),
          .scales = apart ? index_scales(layer) : nullptr};
}

void CudaCache::copy_out(CachePart part, int64_t layer, std::span<std::byte> rows_out) const {
  const RowPieces all = pieces(part, layer, static_cast<int64_t>(rows_out.size()));
  cuda::check(cudaDeviceSynchronize(), "waiting for the cache");
  cuda::check(cudaMemcpy2D(rows_out.data(), all.row, rows(part, layer), all.value, all.value, all.rows,
                           cudaMemcpyDeviceToHost),
              "reading the cache");
  if (all.scales != nullptr) {
    cuda::check(cudaMemcpy2D(rows_out.data() + all.value, all.row, all.scales, kScaleBytes, kScaleBytes,
                             all.rows, cudaMemcpyDeviceToHost),
                "reading the cache's scales");
  }
}

void CudaCache::copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows_in) {
  const RowPieces all = pieces(part, layer, static_cast<int64_t>(rows_in.size()));
  cuda::check(cudaDeviceSynchronize(), "waiting for the cache");
  cuda::check(cudaMemcpy2D(rows(part, layer), all.value, rows_in.data(), all.row, all.value, all.rows,
                           cudaMemcpyHostToDevice),
              "writing the cache");
  if (all.scales != nullptr) {
    cuda::check(cudaMemcpy2D(all.scales, kScaleBytes, rows_in.data() + all.value, all.row, kScaleBytes,
                             all.rows, cudaMemcpyHostToDevice),
                "writing the cache's scales");
  }
}

}  // namespace sluice
