// What every layer remembers of every token: the latent row (latent, then rotated rope part) and the
// indexer's key. Where the rows are is the backend's to choose: CpuCache has them in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/model_config.h"
#include "engine/model_part.h"
#include "kernels_cpu/row_source.h"

namespace sluice {

/// Of latent rows; index keys are float32 with kF32, bf16 with kBF16 and kFp8, and int8 with the others.
enum class CacheType { kF32, kBF16, kBF16Int8, kFp8, kFp8Int8 };
/// "f32", "bf16", "bf16+int8", "fp8", "fp8+int8".
std::string_view cache_type_name(CacheType type);

constexpr bool has_fp8_latents(CacheType type) {
  return type == CacheType::kFp8 || type == CacheType::kFp8Int8;
}
constexpr bool has_int8_keys(CacheType type) {
  return type == CacheType::kBF16Int8 || type == CacheType::kFp8Int8;
}

/// Latent rows [capacity, d_latent + d_rope]; index keys [capacity, d_index], none without an indexer.
enum class CachePart { kLatent, kIndexKeys };

/// Rows for `capacity` positions of one sequence, in a model's layers or some of them, which keep their
/// numbers. How many are valid is the session's to know.
class KvCache {
 public:
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  virtual ~KvCache() = default;

  [[nodiscard]] int64_t capacity() const { return capacity_; }
  [[nodiscard]] CacheType type() const { return type_; }
  [[nodiscard]] LayerRange layers() const { return layers_; }
  [[nodiscard]] int64_t bytes() const;
  /// Of a position in one layer; 0 for index keys without an indexer.
  [[nodiscard]] int64_t row_bytes(CachePart part) const;

  /// The layer's first rows, as many whole ones as `rows` holds, for saving and loading: the same bytes
  /// wherever the cache is. Both wait for what writes the cache.
  virtual void copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const = 0;
  virtual void copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) = 0;

 protected:
  /// Throws Error naming -ctk when the model's rows do not fit the type.
  KvCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type);

  [[nodiscard]] cpu::RowFormat format(CachePart part) const;
  [[nodiscard]] int64_t d_latent() const { return d_latent_; }
  [[nodiscard]] int64_t cols(CachePart part) const {
    return part == CachePart::kLatent ? d_cache_ : d_index_;
  }

 private:
  CacheType type_;
  int64_t capacity_;
  LayerRange layers_;
  int64_t d_latent_;
  int64_t d_cache_;
  int64_t d_index_;
};

/// The rows in memory, for the CPU backend.
class CpuCache final : public KvCache {
 public:
  /// Of all layers, or of some. Throws Error naming -c/--ctx-size when the memory cannot be had.
  CpuCache(const ModelConfig& config, int64_t capacity, CacheType type)
      : CpuCache(config, {0, config.layers}, capacity, type) {}
  CpuCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type);

  [[nodiscard]] cpu::CacheRows latent_rows(int64_t layer) const;  // [capacity, d_latent + d_rope]
  [[nodiscard]] cpu::CacheRows index_rows(int64_t layer) const;   // [capacity, d_index]
  /// Stores the row of `position`, rounding to the cache's type. int8 keys want hadamard() before.
  void store_latent(const cpu::Kernels& kernels, int64_t layer, int64_t position, std::span<const float> row);
  void store_index_key(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                       std::span<const float> key);

  void copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const override;
  void copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) override;

 private:
  [[nodiscard]] size_t index_of(int64_t layer) const;  // in latent_ and index_
  [[nodiscard]] cpu::CacheRows rows_of(CachePart part, int64_t layer) const;
  void store(CachePart part, const cpu::Kernels& kernels, int64_t layer, int64_t position,
             std::span<const float> row);

  std::vector<std::vector<std::byte>> latent_;  // per layer of layers()
  std::vector<std::vector<std::byte>> index_;   // the same; empty without an indexer
};

}  // namespace sluice
