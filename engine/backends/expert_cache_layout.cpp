#include "engine/backends/expert_cache_layout.h"

#include <algorithm>

#include "engine/backends/gpu_working_memory.h"

namespace sluice {

ExpertCacheBuffers::ExpertCacheBuffers(const ExpertCacheShape& shape, DeviceLayout& layout) {
  slots = layout.take<std::byte>(shape.slots * shape.slot_bytes);
  for (float*& part : scales) {
    part = layout.take<float>(shape.slots);
  }
  slot_of = layout.take<int32_t>(shape.layers * shape.experts);
  slots_used = layout.take<int32_t>(kFewExpertTokens * shape.used);
  parts = layout.take<int32_t>(kFewExpertTokens * shape.used);
}

int64_t expert_cache_bytes(const ExpertCacheShape& shape) {
  DeviceLayout counted;
  static_cast<void>(ExpertCacheBuffers(shape, counted));
  return counted.taken();
}

ExpertCacheShape expert_cache_within(ExpertCacheShape shape, int64_t bytes) {
  shape.slots = 0;
  const int64_t left = bytes - expert_cache_bytes(shape);
  shape.slots = shape.slot_bytes == 0
                    ? 0
                    : std::clamp<int64_t>(left / shape.slot_bytes, 0, shape.layers * shape.experts);
  while (shape.slots > 0 && expert_cache_bytes(shape) > bytes) {
    --shape.slots;  // their scales
  }
  return shape;
}

}  // namespace sluice
