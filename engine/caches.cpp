#include "engine/caches.h"

#include <fmt/format.h>

#include <cassert>
#include <cstring>
#include <new>

#include "quant/base/error.h"

namespace sluice {
namespace {

quant::DType dtype_of(CacheType type) {
  return type == CacheType::kF32 ? quant::DType::kF32 : quant::DType::kBF16;
}

void store_row(const cpu::Kernels& kernels, CacheType type, std::span<const float> row, std::byte* out) {
  if (type == CacheType::kF32) {
    std::memcpy(out, row.data(), row.size_bytes());
  } else {
    kernels.to_bf16(row.data(), static_cast<int64_t>(row.size()), reinterpret_cast<uint16_t*>(out));
  }
}

}  // namespace

std::string_view cache_type_name(CacheType type) {
  return type == CacheType::kF32 ? "f32" : "bf16";
}

KvCache::KvCache(const ModelConfig& config, int64_t capacity, CacheType type)
    : type_(type),
      capacity_(capacity),
      d_cache_(config.d_cache()),
      d_index_(config.has_indexer ? config.d_index : 0) {
  const auto latent_size = static_cast<size_t>(capacity * d_cache_ * element_bytes());
  const auto index_size = static_cast<size_t>(capacity * d_index_ * element_bytes());
  try {
    latent_.resize(static_cast<size_t>(config.layers));
    index_.resize(static_cast<size_t>(config.layers));
    for (size_t i = 0; i < latent_.size(); ++i) {
      latent_[i].resize(latent_size);
      index_[i].resize(index_size);
    }
  } catch (const std::bad_alloc&) {
    throw Error("-c/--ctx-size",
                fmt::format("a context whose cache fits in memory ({} tokens need {:.1f} GiB)", capacity,
                            static_cast<double>(latent_size + index_size) *
                                static_cast<double>(config.layers) / (1 << 30)),
                "not enough memory");
  }
}

int64_t KvCache::bytes() const {
  return layers() * capacity_ * (d_cache_ + d_index_) * element_bytes();
}

cpu::CacheRows KvCache::latent_rows(int64_t layer) const {
  return {dtype_of(type_), latent_[static_cast<size_t>(layer)].data(), d_cache_, d_cache_ * element_bytes()};
}

cpu::CacheRows KvCache::index_rows(int64_t layer) const {
  return {dtype_of(type_), index_[static_cast<size_t>(layer)].data(), d_index_, d_index_ * element_bytes()};
}

void KvCache::store_latent(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                           std::span<const float> row) {
  assert(position < capacity_ && static_cast<int64_t>(row.size()) == d_cache_);
  store_row(kernels, type_, row,
            latent_[static_cast<size_t>(layer)].data() + position * d_cache_ * element_bytes());
}

void KvCache::store_index_key(const cpu::Kernels& kernels, int64_t layer, int64_t position,
                              std::span<const float> key) {
  assert(position < capacity_ && static_cast<int64_t>(key.size()) == d_index_);
  store_row(kernels, type_, key,
            index_[static_cast<size_t>(layer)].data() + position * d_index_ * element_bytes());
}

std::span<std::byte> KvCache::latent_bytes(int64_t layer, int64_t positions) {
  return std::span(latent_[static_cast<size_t>(layer)])
      .first(static_cast<size_t>(positions * d_cache_ * element_bytes()));
}

std::span<std::byte> KvCache::index_bytes(int64_t layer, int64_t positions) {
  return std::span(index_[static_cast<size_t>(layer)])
      .first(static_cast<size_t>(positions * d_index_ * element_bytes()));
}

}  // namespace sluice
