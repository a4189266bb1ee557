// How the memory of an expert cache (cuda_expert_cache.h) is laid out. Without CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/device_layout.h"

namespace sluice {

struct ExpertCacheShape {
  int64_t layers = 0;      // whose experts may be cached
  int64_t experts = 0;     // of each
  int64_t used = 0;        // of them by a token
  int64_t slot_bytes = 0;  // for the largest expert
  int64_t slots = 0;       // experts that have room
};

/// Its pieces, of the memory that `layout` hands out.
struct ExpertCacheBuffers {
  ExpertCacheBuffers(const ExpertCacheShape& shape, DeviceLayout& layout);
  std::byte* slots;     // [slots, slot_bytes]
  float* scales[3];     // gate, up, down: [slots]
  int32_t* slot_of;     // [layers, experts], -1 where an expert has none
  int32_t* slots_used;  // [kFewExpertTokens, used]: of the layer at hand
  int32_t* parts;       // [kFewExpertTokens, used]
};

int64_t expert_cache_bytes(const ExpertCacheShape& shape);

/// `shape` with as many slots as `bytes` have room for, of all its experts at most; 0 where not even one has.
ExpertCacheShape expert_cache_within(ExpertCacheShape shape, int64_t bytes);

}  // namespace sluice
