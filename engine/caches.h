// What every layer remembers of every token: the latent row (latent, then rotated rope part) and the
// indexer's key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/model_config.h"
#include "kernels_cpu/row_source.h"

namespace sluice {

enum class CacheType { kF32, kBF16 };
/// "f32", "bf16".
std::string_view cache_type_name(CacheType type);

/// Rows for `capacity` positions of one sequence. How many are valid is the session's to know.
class KvCache {
 public:
  /// Throws Error naming -c/--ctx-size when the memory cannot be had.
  KvCache(const ModelConfig& config, int64_t capacity, CacheType type);

  [[nodiscard]] int64_t capacity() const { return capacity_; }
  [[nodiscard]] CacheType type() const { return type_; }
  [[nodiscard]] int64_t layers() const { return static_cast<int64_t>(latent_.size()); }
  [[nodiscard]] int64_t bytes() const;

  [[nodiscard]] cpu::CacheRows latent_rows(int64_t layer) const;  // [capacity, d_latent + d_rope]
  [[nodiscard]] cpu::CacheRows index_rows(int64_t layer) const;   // [capacity, d_index]
  /// Stores the row of `position`, rounding to the cache's type.
  void store_latent(const cpu::Kernels& kernels, int64_t layer, int64_t position, std::span<const float> row);
  void store_index_key(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                       std::span<const float> key);

  /// Raw bytes of the first `positions` rows of a layer, for saving and loading.
  [[nodiscard]] std::span<std::byte> latent_bytes(int64_t layer, int64_t positions);
  [[nodiscard]] std::span<std::byte> index_bytes(int64_t layer, int64_t positions);

 private:
  [[nodiscard]] int64_t element_bytes() const { return type_ == CacheType::kF32 ? 4 : 2; }

  CacheType type_;
  int64_t capacity_;
  int64_t d_cache_;
  int64_t d_index_;
  std::vector<std::vector<std::byte>> latent_;  // per layer
  std::vector<std::vector<std::byte>> index_;   // per layer; empty without an indexer
};

}  // namespace sluice
