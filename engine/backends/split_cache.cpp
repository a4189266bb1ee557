#include "engine/backends/split_cache.h"

#include <cassert>
#include <utility>

namespace sluice {

SplitCache::SplitCache(const ModelConfig& config, std::unique_ptr<KvCache> first,
                       std::unique_ptr<KvCache> rest)
    : KvCache(config, {first->layers().begin, rest->layers().end}, first->capacity(), first->type()),
      first_(std::move(first)),
      rest_(std::move(rest)) {
  assert(first_->layers().end == rest_->layers().begin);
  assert(first_->capacity() == rest_->capacity() && first_->type() == rest_->type());
}

KvCache& SplitCache::of(int64_t layer) const {
  return first_->layers().has(layer) ? *first_ : *rest_;
}

void SplitCache::copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const {
  of(layer).copy_out(part, layer, rows);
}

void SplitCache::copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) {
  of(layer).copy_in(part, layer, rows);
}

}  // namespace sluice
