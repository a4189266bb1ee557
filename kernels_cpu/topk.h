// Exact, deterministic top-k: larger score first, then smaller position (model formula 2.6, step 8).
#pragma once

#include <cstdint>
#include <span>

namespace sluice::cpu {

/// Writes the positions of the min(k, scores.size()) largest scores to `selected`, ascending by position, and
/// returns how many. -0.0 counts as +0.0; a NaN is a programmer error (asserted). selected.size() >= that
/// count. `scratch` needs scores.size() elements.
int64_t top_k(std::span<const float> scores, int64_t k, std::span<int32_t> selected,
              std::span<uint64_t> scratch);

}  // namespace sluice::cpu
