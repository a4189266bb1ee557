// Exact top-k: a radix search over order-preserving integer keys finds the k-th largest one, eleven bits at a
// time; one more pass takes what is larger, and of its equals the first.
#include "kernels_cpu/topk.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <limits>

namespace sluice::cpu {
namespace {

constexpr size_t kBins = 2048;
// Neighbouring scores meet in the same bin, and an increment waits for the one before it: four counters a
// bin.
constexpr size_t kCounters = 4;

/// [low, high] of int32 keys, as offsets from the smallest one.
struct KeyRange {
  uint32_t low;
  uint32_t high;
};

constexpr uint32_t offset_of(int32_t key) {
  return static_cast<uint32_t>(key) ^ 0x80000000U;
}
constexpr int32_t key_of(uint32_t offset) {
  return static_cast<int32_t>(offset ^ 0x80000000U);
}

/// Where the k-th largest key lies: its range, and how many of the range are wanted.
struct Search {
  KeyRange range;
  int64_t wanted;
  int64_t found;  // keys in the range
};

/// Narrows the search to one of kBins parts of 2^shift keys each. All `keys` lie in search.range.
Search narrow(std::span<const int32_t> keys, const Search& search, int shift) {
  std::array<std::array<uint32_t, kCounters>, kBins> counts{};
  size_t i = 0;
  for (; i + kCounters <= keys.size(); i += kCounters) {
    for (size_t c = 0; c < kCounters; ++c) {
      ++counts[(offset_of(keys[i + c]) - search.range.low) >> shift][c];
    }
  }
  for (; i < keys.size(); ++i) {
    ++counts[(offset_of(keys[i]) - search.range.low) >> shift][0];
  }
  int64_t wanted = search.wanted;
  for (size_t bin = kBins; bin-- > 0;) {
    const auto& c = counts[bin];
    const int64_t found = int64_t{c[0]} + c[1] + c[2] + c[3];
    if (found >= wanted) {
      const uint32_t low = search.range.low + (static_cast<uint32_t>(bin) << shift);
      return {{low, low + ((uint32_t{1} << shift) - 1)}, wanted, found};
    }
    wanted -= found;
  }
  assert(false);  // wanted <= keys.size()
  return search;
}

/// The k-th largest key is search.range.low, or all keys of the range are wanted.
Search find_kth(const Kernels& kernels, std::span<const int32_t> keys, int64_t k,
                std::span<int32_t> candidates) {
  constexpr std::array<int, 3> kShifts = {21, 10, 0};  // 11, 11 and 10 bits
  Search search{{0, std::numeric_limits<uint32_t>::max()}, k, static_cast<int64_t>(keys.size())};
  for (const int shift : kShifts) {
    search = narrow(keys, search, shift);
    if (search.wanted == search.found || shift == 0) {
      break;
    }
    // In place from the second time on: a key never moves up.
    kernels.keys_between(keys.data(), static_cast<int64_t>(keys.size()), key_of(search.range.low),
                         key_of(search.range.high), candidates.data());
    keys = candidates.first(static_cast<size_t>(search.found));
  }
  return search;
}

}  // namespace

int64_t top_k(const Kernels& kernels, std::span<const float> scores, int64_t k, std::span<int32_t> selected,
              std::span<int32_t> scratch) {
  assert(scores.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  assert(std::ranges::none_of(scores, [](float score) { return std::isnan(score); }));
  const auto n = static_cast<int64_t>(scores.size());
  const int64_t count = std::min(k, n);
  assert(static_cast<int64_t>(selected.size()) >= count);
  assert(static_cast<int64_t>(scratch.size()) >= top_k_scratch(n));
  if (count <= 0) {
    return 0;
  }
  const std::span<int32_t> keys = scratch.first(scores.size());
  kernels.order_keys(scores.data(), n, keys.data());
  const Search kth = find_kth(kernels, keys, count, scratch.subspan(scores.size()));
  // All of a range that is wanted as a whole lies at or above its low end, and the ties there are as many as
  // there are.
  const int64_t ties = kth.wanted == kth.found ? n : kth.wanted;
  const int64_t written = kernels.take_largest(keys.data(), n, key_of(kth.range.low), ties, selected.data());
  assert(written == count);
  return written;
}

}  // namespace sluice::cpu
