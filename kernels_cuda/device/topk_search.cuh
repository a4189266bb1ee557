// Finding the k-th largest score of a row within one block: a radix search over 50-bit values that are all
// different, the score's order-preserving bits first and the position, reversed, behind them. So ties need no
// rule of their own.
#pragma once

#include <cstdint>

namespace sluice::cuda::device {

inline constexpr int kPositionBits = 18;
inline constexpr int kTopKBins = 2048;
inline constexpr int kBitWords = 163840 / 32;

/// Larger floats to larger integers; -0.0 to the same as +0.0, a NaN to 0, below -infinity.
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0F);
  const uint32_t key = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return isnan(score) ? 0U : key;
}

/// The float of a key; a NaN for keys below that of -infinity.
__device__ __forceinline__ float score_of_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}

__device__ __forceinline__ uint64_t order_value(uint32_t key, uint32_t position) {
  constexpr uint32_t kLast = (1U << kPositionBits) - 1;
  return (uint64_t{key} << kPositionBits) | (kLast - position);
}

/// What is known: the k-th largest value is in [low, low + 2^bits), and is the `wanted`-th largest of the
/// `found` values there.
struct Search {
  uint64_t low;
  int bits;
  int wanted;
  int found;
  [[nodiscard]] __device__ __forceinline__ bool is_done() const { return wanted == found; }
};

inline constexpr int kDigitBits = 11;
inline constexpr int kValueBits = 32 + kPositionBits;

/// All values whose keys are in [least, most].
__device__ __forceinline__ Search search_keys(uint32_t least, uint32_t most, int wanted, int found) {
  const uint64_t low = uint64_t{least} << kPositionBits;
  const uint64_t span = (uint64_t{most} << kPositionBits | ((1U << kPositionBits) - 1)) - low;
  return {low, 64 - __clzll(static_cast<long long>(span)), wanted, found};
}

/// Shared memory of a search by kThreadsArg threads among at most kCapacityArg listed candidates.
template <int kThreadsArg, int kCapacityArg>
struct TopKShared {
  static constexpr int kThreads = kThreadsArg;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kCapacity = kCapacityArg;
  union {
    uint32_t counts[kTopKBins];  // during the search
    uint32_t bits[kBitWords];    // after it: a bit for each position, set where it is selected
  };
  uint32_t keys[size_t{kCapacityArg}];
  uint32_t positions[size_t{kCapacityArg}];
  uint32_t warp_sums[size_t{kThreadsArg} / 32];
  uint32_t n_listed;  // may exceed kCapacity: then the list is not complete
  uint32_t least_key;
  uint32_t most_key;
  Search search;
};

/// The sum of `value` over the threads before this one.
template <typename Shared>
__device__ __forceinline__ uint32_t sum_before(Shared& shared, uint32_t value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  uint32_t up_to = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xFFFFFFFFU, up_to, distance);
    up_to += lane >= distance ? other : 0;
  }
  if (lane == 31) {
    shared.warp_sums[warp] = up_to;
  }
  __syncthreads();
  uint32_t before = lane < warp ? shared.warp_sums[lane] : 0;
  before = __reduce_add_sync(0xFFFFFFFFU, before);
  __syncthreads();
  return before + up_to - value;
}

/// shared.search narrowed to one bin of 2^shift values, by the counts.
template <typename Shared>
__device__ __forceinline__ void pick_bin(Shared& shared, int shift) {
  constexpr int kPerThread = kTopKBins / Shared::kThreads;
  const int first = kTopKBins - 1 - static_cast<int>(threadIdx.x) * kPerThread;  // bins are walked downwards
  const Search search = shared.search;
  uint32_t counts[kPerThread];
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    counts[i] = shared.counts[first - i];
    shared.counts[first - i] = 0;  // for the next time
    sum += counts[i];
  }
  auto before = static_cast<int>(sum_before(shared, sum));
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const auto found = static_cast<int>(counts[i]);
    if (before < search.wanted && search.wanted <= before + found) {
      shared.search = {search.low + (static_cast<uint64_t>(first - i) << shift), shift,
                       search.wanted - before, found};
    }
    before += found;
  }
  __syncthreads();
}

/// Adds up the values of [low, low + 2^bits) in the bins of 2^shift that they fall into.
template <typename Shared, typename ForEach>
__device__ __forceinline__ void count_bins(Shared& shared, const Search& search, int shift,
                                           const ForEach& for_each) {
  if (shift >= kPositionBits && search.bits < kValueBits) {  // keys alone decide, and 32 bits will do
    const auto low = static_cast<uint32_t>(search.low >> kPositionBits);
    const int bits = search.bits - kPositionBits;
    const int key_shift = shift - kPositionBits;
    for_each([&](uint32_t key, uint32_t) {
      const uint32_t beyond = key - low;  // huge below `low`
      if (beyond >> bits == 0) atomicAdd(&shared.counts[beyond >> key_shift], 1U);
    });
    return;
  }
  for_each([&](uint32_t key, uint32_t position) {
    const uint64_t beyond = order_value(key, position) - search.low;
    if (beyond >> search.bits == 0) atomicAdd(&shared.counts[beyond >> shift], 1U);
  });
}

/// Counts the values in the known range by its next bits, and narrows. `for_each(count)` calls count(key,
/// position) for every value in this thread's part. Begins and ends as begin_search does.
template <typename Shared, typename ForEach>
__device__ __forceinline__ void narrow(Shared& shared, const ForEach& for_each) {
  const Search search = shared.search;
  const int shift = max(search.bits - kDigitBits, 0);
  count_bins(shared, search, shift, for_each);
  __syncthreads();
  pick_bin(shared, shift);
}

/// What narrow() begins with: nothing known but `all`, counts of 0. Ends with a barrier.
template <typename Shared>
__device__ __forceinline__ void begin_search(Shared& shared, const Search& all) {
  if (threadIdx.x == 0) {
    shared.search = all;
  }
  for (int i = static_cast<int>(threadIdx.x); i < kTopKBins; i += Shared::kThreads) {
    shared.counts[i] = 0;
  }
  __syncthreads();
}

/// narrow() until the values >= shared.search.low are the wanted ones. Ends with a barrier.
template <typename Shared, typename ForEach>
__device__ __forceinline__ void find_kth(Shared& shared, const Search& all, const ForEach& for_each) {
  begin_search(shared, all);
  while (!shared.search.is_done()) {
    narrow(shared, for_each);
  }
}

/// The list as a source of values.
template <typename Shared>
struct Listed {
  const Shared& shared;
  int count;
  template <typename Visit>
  __device__ __forceinline__ void operator()(const Visit& visit) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += Shared::kThreads) {
      visit(shared.keys[i], shared.positions[i]);
    }
  }
};

/// A row in global memory as a source of values, four at a time.
template <typename Shared>
struct WholeRow {
  const float* scores;
  int length;
  template <typename Visit>
  __device__ __forceinline__ void operator()(const Visit& visit) const {
    for (int i = 4 * static_cast<int>(threadIdx.x); i < length; i += 4 * Shared::kThreads) {
      const float4 four = *reinterpret_cast<const float4*>(scores + i);
      const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i + j < length) {
          visit(order_key(values[j]), static_cast<uint32_t>(i + j));
        }
      }
    }
  }
};

/// A sample of kSample scores of a row of `length`, spread over it, a different place in every stretch.
__device__ __forceinline__ int sample_position(int i, int n_samples, int length) {
  const uint32_t stretch = static_cast<uint32_t>(length) / static_cast<uint32_t>(n_samples);
  const uint32_t scattered = (static_cast<uint32_t>(i) * 2654435761U) >> 16;
  return static_cast<int>(static_cast<uint32_t>(i) * stretch + scattered % stretch);
}

/// Smallest and largest key of the list, into `shared`. Begins and ends with a barrier.
template <typename Shared>
__device__ __forceinline__ void find_key_range(Shared& shared, int count) {
  uint32_t least = 0xFFFFFFFFU;
  uint32_t most = 0;
  if (threadIdx.x == 0) {
    shared.least_key = least;
    shared.most_key = most;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Shared::kThreads) {
    least = min(least, shared.keys[i]);
    most = max(most, shared.keys[i]);
  }
  least = __reduce_min_sync(0xFFFFFFFFU, least);
  most = __reduce_max_sync(0xFFFFFFFFU, most);
  if (threadIdx.x % 32 == 0) {
    atomicMin(&shared.least_key, least);
    atomicMax(&shared.most_key, most);
  }
  __syncthreads();
}

/// A score that some more than k of the row's `length` scores are likely to reach, found from a sample of
/// kSamples <= length. Only speed depends on the guess.
template <int kSamples, typename Shared>
__device__ __forceinline__ float guess_pivot(Shared& shared, const float* scores, int length, int k) {
  static_assert(kSamples <= Shared::kCapacity);
  for (int i = static_cast<int>(threadIdx.x); i < kSamples; i += Shared::kThreads) {
    shared.keys[i] = order_key(scores[sample_position(i, kSamples, length)]);
    shared.positions[i] = 0;
  }
  const float expected = static_cast<float>(kSamples) * static_cast<float>(k) / static_cast<float>(length);
  const int rank =
      static_cast<int>(expected + 3.0F * sqrtf(expected) + 2.0F);  // three standard deviations more
  find_key_range(shared, kSamples);
  begin_search(shared, search_keys(shared.least_key, shared.most_key, min(rank, kSamples), kSamples));
  narrow(shared, Listed<Shared>{shared, kSamples});
  narrow(shared, Listed<Shared>{shared, kSamples});
  return score_of_key(static_cast<uint32_t>(shared.search.low >> kPositionBits));
}

}  // namespace sluice::cuda::device
