// The cache in the memory of a GPU: per layer latent rows, then index keys, as the attention kernels read
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/backends/gpu_cache_layout.h"
#include "engine/caches.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/indexer.h"
#include "kernels_cuda/latent_rows.h"

namespace sluice {

class CudaCache final : public KvCache {
 public:
  /// Throws Error naming -c/--ctx-size, with what it needs and what this thread's GPU has free, when there is
  /// no room.
  CudaCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type);

  /// Bytes of GPU memory that such a cache takes.
  static int64_t bytes_needed(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type);

  [[nodiscard]] cuda::LatentRows latent_rows(int64_t layer) const;  // [capacity, d_latent + d_rope]
  [[nodiscard]] cuda::IndexKeys index_keys(int64_t layer) const;    // [capacity, d_index]
  /// The same memory, for the kernels that write rows: of int8 keys the codes, [capacity, d_index].
  [[nodiscard]] std::byte* rows(CachePart part, int64_t layer) const;
  /// Of int8 keys, [capacity]; null for others.
  [[nodiscard]] float* index_scales(int64_t layer) const;

  void copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const override;
  void copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) override;

 private:
  /// Rows as copy_out() gives them and where their pieces are here. Bytes.
  struct RowPieces {
    size_t rows;
    size_t row;
    size_t value;   // of it, without a scale that lies elsewhere
    float* scales;  // those, or null
  };
  [[nodiscard]] std::byte* layer_data(int64_t layer) const;
  [[nodiscard]] RowPieces pieces(CachePart part, int64_t layer, int64_t bytes) const;

  GpuCacheLayout layout_;
  cuda::DeviceBuffer<std::byte> memory_;
};

}  // namespace sluice
