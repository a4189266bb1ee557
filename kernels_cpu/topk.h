// Exact, deterministic top-k: larger score first, then smaller position (model formula 2.6, step 8).
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"

namespace sluice::cpu {

/// Elements of scratch for top_k of n scores.
constexpr int64_t top_k_scratch(int64_t n) {
  return 2 * n;
}

/// Writes the positions of the min(k, scores.size()) largest scores to `selected`, ascending by position, and
/// returns how many. -0.0 counts as +0.0; a NaN is a programmer error (asserted). selected.size() >= that
/// count.
int64_t top_k(const Kernels& kernels, std::span<const float> scores, int64_t k, std::span<int32_t> selected,
              std::span<int32_t> scratch);

}  // namespace sluice::cpu
