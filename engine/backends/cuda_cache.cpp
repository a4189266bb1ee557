#include "engine/backends/cuda_cache.h"

#include <fmt/format.h>

#include <cassert>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/out_of_memory.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int64_t kScaleBytes = sizeof(float);

/// Throws Error naming -c when the GPU has no room.
cuda::DeviceBuffer<std::byte> memory_for(int64_t bytes, int64_t capacity) {
  try {
    return cuda::DeviceBuffer<std::byte>(bytes);
  } catch (const cuda::OutOfMemory& error) {
    throw Error("-c/--ctx-size",
                fmt::format("a context whose cache fits on the GPU ({} tokens need {:.2f} GB; -ngl with "
                            "fewer layers keeps more of it in memory)",
                            capacity, static_cast<double>(bytes) / 1e9),
                error.found());
  }
}

}  // namespace

CudaCache::CudaCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type)
    : KvCache(config, layers, capacity, type),
      layout_(gpu_cache_layout(config, capacity, type)),
      memory_(memory_for(bytes_needed(config, layers, capacity, type), capacity)) {}

int64_t CudaCache::bytes_needed(const ModelConfig& config, LayerRange layers, int64_t capacity,
                                CacheType type) {
  return layers.count() * gpu_cache_layout(config, capacity, type).layer();
}

std::byte* CudaCache::layer_data(int64_t layer) const {
  assert(layers().has(layer));
  return memory_.data() + (layer - layers().begin) * layout_.layer();
}

std::byte* CudaCache::rows(CachePart part, int64_t layer) const {
  return layer_data(layer) + (part == CachePart::kLatent ? 0 : layout_.latents);
}

float* CudaCache::index_scales(int64_t layer) const {
  const int64_t at = layout_.latents + layout_.index_keys;
  return has_int8_keys(type()) ? reinterpret_cast<float*>(layer_data(layer) + at) : nullptr;
}

cuda::LatentRows CudaCache::latent_rows(int64_t layer) const {
  return {.data = rows(CachePart::kLatent, layer),
          .format = gpu_latent_format(type()),
          .n_rows = capacity(),
          .row_bytes = row_bytes(CachePart::kLatent)};
}

cuda::IndexKeys CudaCache::index_keys(int64_t layer) const {
  return {.values = rows(CachePart::kIndexKeys, layer),
          .scales = index_scales(layer),
          .format = gpu_index_format(type()),
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
