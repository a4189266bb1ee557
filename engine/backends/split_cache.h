// The cache of a model whose layers two backends compute: the rows of a layer lie where it is computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/caches.h"

namespace sluice {

class SplitCache final : public KvCache {
 public:
  /// Two caches of one capacity and type: `rest` has the layers behind those of `first` (asserted).
  SplitCache(const ModelConfig& config, std::unique_ptr<KvCache> first, std::unique_ptr<KvCache> rest);

  [[nodiscard]] KvCache& first() const { return *first_; }
  [[nodiscard]] KvCache& rest() const { return *rest_; }

  void copy_out(CachePart part, int64_t layer, std::span<std::byte> rows) const override;
  void copy_in(CachePart part, int64_t layer, std::span<const std::byte> rows) override;

 private:
  [[nodiscard]] KvCache& of(int64_t layer) const;

  std::unique_ptr<KvCache> first_;
  std::unique_ptr<KvCache> rest_;
};

}  // namespace sluice
