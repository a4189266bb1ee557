// Scratch memory that callers pass as a span: its use from a cache line's start on.
#pragma once

#include <cassert>
#include <cstdint>
#include <span>

namespace sluice::cpu {

inline constexpr int64_t kCacheLineBytes = 64;
/// Floats that alignment may cost; part of every x_scratch_floats().
inline constexpr int64_t kScratchSlack = kCacheLineBytes / static_cast<int64_t>(sizeof(float));

/// The first cache line that starts in `scratch`. Vectors that straddle two lines load at half the rate.
inline float* aligned_scratch(std::span<float> scratch) {
  assert(static_cast<int64_t>(scratch.size()) >= kScratchSlack);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  const auto past = static_cast<int64_t>(address % kCacheLineBytes);
  return past == 0 ? scratch.data()
                   : scratch.data() + (kCacheLineBytes - past) / static_cast<int64_t>(sizeof(float));
}

/// n floats rounded up to whole cache lines, for dividing scratch into parts.
constexpr int64_t whole_lines(int64_t n) {
  return (n + kScratchSlack - 1) / kScratchSlack * kScratchSlack;
}

}  // namespace sluice::cpu
