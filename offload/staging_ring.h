// GPU memory that streamed experts pass through: what there has to be of it, and what there will be. Here for
// the plan and for the backend that allocates it (engine/backends/cuda_staging.h).
#pragma once

#include <cstdint>

namespace sluice::offload {

/// Experts that a ring has room for, at least: one is multiplied, one waits and one arrives.
inline constexpr int64_t kLeastStagedExperts = 3;

/// Bytes of a ring that needs `least`, where `free` bytes are left beside those: it takes seven eighths of
/// them, up to a layer's experts. Chosen: copies run ahead under whatever else the GPU does, and what is
/// allocated later has room.
constexpr int64_t ring_bytes(int64_t least, int64_t free) {
  return least + free / 8 * 7;
}

}  // namespace sluice::offload
