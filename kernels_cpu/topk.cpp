// Exact top-k: a histogram finds the bin of the k-th score, a selection inside that bin the score itself.
#include "kernels_cpu/topk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <functional>
#include <limits>

namespace sluice::cpu {
namespace {

constexpr uint32_t kBinBits = 11;  // sign, exponent and two bits of mantissa; 16 KiB of counters stay in L1
constexpr size_t kBins = size_t{1} << kBinBits;

/// Larger for a larger score, equal for -0.0 and +0.0.
uint32_t ordered_bits(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0F);  // -0.0 + 0.0 is +0.0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Distinct for every position: larger for a larger score, then for a smaller position.
uint64_t key_of(float score, size_t position) {
  return static_cast<uint64_t>(ordered_bits(score)) << 32 |
         (std::numeric_limits<uint32_t>::max() - static_cast<uint32_t>(position));
}

size_t bin_of(uint32_t ordered) {
  return ordered >> (32 - kBinBits);
}

/// The k-th largest key, 1 <= k <= scores.size().
uint64_t kth_key(std::span<const float> scores, int64_t k, std::span<uint64_t> scratch) {
  std::array<int64_t, kBins> counts{};
  for (const float score : scores) {
    assert(!std::isnan(score));
    ++counts[bin_of(ordered_bits(score))];
  }
  size_t bin = kBins - 1;
  for (; counts[bin] < k; --bin) {
    k -= counts[bin];
  }
  size_t candidates = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (bin_of(ordered_bits(scores[i])) == bin) {
      scratch[candidates++] = key_of(scores[i], i);
    }
  }
  const auto kth = scratch.begin() + (k - 1);
  std::nth_element(scratch.begin(), kth, scratch.begin() + static_cast<int64_t>(candidates),
                   std::greater<>());
  return *kth;
}

}  // namespace

int64_t top_k(std::span<const float> scores, int64_t k, std::span<int32_t> selected,
              std::span<uint64_t> scratch) {
  assert(scores.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  const int64_t count = std::min(k, static_cast<int64_t>(scores.size()));
  assert(static_cast<int64_t>(selected.size()) >= count && scratch.size() >= scores.size());
  if (count <= 0) {
    return 0;
  }
  const uint64_t last = count < static_cast<int64_t>(scores.size()) ? kth_key(scores, count, scratch) : 0;
  size_t written = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (key_of(scores[i], i) >= last) {
      selected[written++] = static_cast<int32_t>(i);
    }
  }
  assert(static_cast<int64_t>(written) == count);
  return count;
}

}  // namespace sluice::cpu
