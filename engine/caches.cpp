#include "engine/caches.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

#include "quant/base/error.h"

namespace sluice {
namespace {

quant::DType dtype_of(CacheType type) {
  return type == CacheType::kF32 ? quant::DType::kF32 : quant::DType::kBF16;
}

}  // namespace

std::string_view cache_type_name(CacheType type) {
  return type == CacheType::kF32 ? "f32" : "bf16";
}

KvCache::KvCache(const ModelConfig& config, int64_t capacity, CacheType type)
    : type_(type),
      capacity_(capacity),
      layers_(config.layers),
      d_cache_(config.d_cache()),
      d_index_(config.has_indexer ? config.d_index : 0) {}

int64_t KvCache::bytes() const {
  return layers_ * capacity_ * (row_bytes(CachePart::kLatent) + row_bytes(CachePart::kIndexKeys));
}

CpuCache::CpuCache(const ModelConfig& config, int64_t capacity, CacheType type)
    : KvCache(config, capacity, type) {
  try {
    latent_.resize(static_cast<size_t>(layers()));
    index_.resize(static_cast<size_t>(layers()));
    for (size_t i = 0; i < latent_.size(); ++i) {
      latent_[i].resize(static_cast<size_t>(capacity * row_bytes(CachePart::kLatent)));
      index_[i].resize(static_cast<size_t>(capacity * row_bytes(CachePart::kIndexKeys)));
    }
  } catch (const std::bad_alloc&) {
    throw Error("-c/--ctx-size",
                fmt::format("a context whose cache fits in memory ({} tokens need {:.1f} GiB)", capacity,
                            static_cast<double>(bytes()) / (1 << 30)),
                "not enough memory");
  }
}

cpu::CacheRows CpuCache::rows_of(CachePart part, int64_t layer) const {
  const auto& rows = part == CachePart::kLatent ? latent_ : index_;
  return {dtype_of(type()), rows[static_cast<size_t>(layer)].data(), cols(part), row_bytes(part)};
}

cpu::CacheRows CpuCache::latent_rows(int64_t layer) const {
  return rows_of(CachePart::kLatent, layer);
}

cpu::CacheRows CpuCache::index_rows(int64_t layer) const {
  return rows_of(CachePart::kIndexKeys, layer);
}

void CpuCache::store(CachePart part, const cpu::Kernels& kernels, int64_t layer, int64_t position,
                     std::span<const float> row) {
  assert(position < capacity() && static_cast<int64_t>(row.size()) == cols(part));
  auto& rows = part == CachePart::kLatent ? latent_ : index_;
  std::byte* const out = rows[static_cast<size_t>(layer)].data() + position * row_bytes(part);
  if (type() == CacheType::kF32) {
    std::memcpy(out, row.data(), row.size_bytes());
  } else {
    kernels.to_bf16(row.data(), static_cast<int64_t>(row.size()), reinterpret_cast<uint16_t*>(out));
  }
}

void CpuCache::store_latent(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                            std::span<const float> row) {
  store(CachePart::kLatent, kernels, layer, position, row);
}

void CpuCache::store_index_key(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                               std::span<const float> key) {
  store(CachePart::kIndexKeys, kernels, layer, position, key);
}

void CpuCache::copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const {
  std::copy_n(rows_of(part, layer).data, rows.size(), rows.data());
}

void CpuCache::copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) {
  auto& all = part == CachePart::kLatent ? latent_ : index_;
  std::ranges::copy(rows, all[static_cast<size_t>(layer)].begin());
}

}  // namespace sluice
