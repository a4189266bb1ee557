#include "engine/caches.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <new>

#include "offload/machine.h"
#include "quant/base/error.h"

namespace sluice {
std::string_view cache_type_name(CacheType type) {
  switch (type) {
    case CacheType::kF32:
      return "f32";
    case CacheType::kBF16:
      return "bf16";
    case CacheType::kBF16Int8:
      return "bf16+int8";
    case CacheType::kFp8:
      return "fp8";
    case CacheType::kFp8Int8:
      return "fp8+int8";
  }
  return "";
}

KvCache::KvCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type)
    : type_(type),
      capacity_(capacity),
      layers_(layers),
      d_latent_(config.d_latent),
      d_cache_(config.d_cache()),
      d_index_(config.has_indexer ? config.d_index : 0) {
  if (has_fp8_latents(type) && d_latent_ % cpu::kFp8Group != 0) {
    throw Error("-ctk/--cache-type-k",
                fmt::format("fp8 for latents in multiples of {} values", cpu::kFp8Group),
                fmt::format("a model with {}", d_latent_));
  }
  if (has_int8_keys(type) && !std::has_single_bit(static_cast<uint64_t>(d_index_))) {
    throw Error("-ctk/--cache-type-k", "int8 for index keys of a power of two values",
                fmt::format("a model with {}", d_index_));
  }
}

cpu::RowFormat KvCache::format(CachePart part) const {
  if (type_ == CacheType::kF32) {
    return cpu::RowFormat::kF32;
  }
  if (part == CachePart::kLatent) {
    return has_fp8_latents(type_) ? cpu::RowFormat::kFp8 : cpu::RowFormat::kBF16;
  }
  return has_int8_keys(type_) ? cpu::RowFormat::kInt8 : cpu::RowFormat::kBF16;
}

int64_t KvCache::row_bytes(CachePart part) const {
  return cols(part) == 0 ? 0 : cpu::row_bytes(format(part), cols(part), d_latent_);
}

int64_t KvCache::bytes() const {
  return layers_.count() * capacity_ * (row_bytes(CachePart::kLatent) + row_bytes(CachePart::kIndexKeys));
}

CpuCache::CpuCache(const ModelConfig& config, LayerRange layers, int64_t capacity, CacheType type)
    : KvCache(config, layers, capacity, type) {
  const int64_t available = offload::available_memory_bytes();
  const auto refuse = [&] {
    throw Error("-c/--ctx-size",
                fmt::format("a context whose cache fits in memory ({} tokens need {:.2f} GB)", capacity,
                            static_cast<double>(bytes()) / 1e9),
                fmt::format("{:.2f} GB available", static_cast<double>(available) / 1e9));
  };
  // The system would hand out more than it has, and end the program when it is used.
  if (bytes() > available) {
    refuse();
  }
  try {
    latent_.resize(static_cast<size_t>(layers.count()));
    index_.resize(static_cast<size_t>(layers.count()));
    for (size_t i = 0; i < latent_.size(); ++i) {
      latent_[i].resize(static_cast<size_t>(capacity * row_bytes(CachePart::kLatent)));
      index_[i].resize(static_cast<size_t>(capacity * row_bytes(CachePart::kIndexKeys)));
    }
  } catch (const std::bad_alloc&) {
    refuse();
  }
}

size_t CpuCache::index_of(int64_t layer) const {
  assert(layers().has(layer));
  return static_cast<size_t>(layer - layers().begin);
}

cpu::CacheRows CpuCache::rows_of(CachePart part, int64_t layer) const {
  const auto& rows = part == CachePart::kLatent ? latent_ : index_;
  return {.format = format(part),
          .data = rows[index_of(layer)].data(),
          .cols = cols(part),
          .row_bytes = row_bytes(part),
          .latent = d_latent()};
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
  std::byte* const out = rows[index_of(layer)].data() + position * row_bytes(part);
  cpu::write_row(kernels, format(part), row, d_latent(), out);
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
  std::ranges::copy(rows, all[index_of(layer)].begin());
}

}  // namespace sluice
