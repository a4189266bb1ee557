// The passes of an exact top-k over integer keys, on the vector vocabulary V (kernels_cpu/topk.cpp).
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

/// kernels_scalar.cpp says why this orders like the scores. -0.0 + 0.0 is +0.0.
inline int32_t ordered_key(float score) {
  const float positive_zero = score + 0.0F;
  int32_t bits;
  memcpy(&bits, &positive_zero, sizeof bits);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

template <class V>
void order_keys(const float* scores, int64_t n, int32_t* keys) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    const typename V::I bits = V::bits(V::add(V::load(scores + i), V::zero()));
    V::store_i(keys + i, V::flip_negative(bits));
  }
  for (; i < n; ++i) {
    keys[i] = ordered_key(scores[i]);
  }
}

template <class V>
int64_t keys_between(const int32_t* keys, int64_t n, int32_t low, int32_t high, int32_t* out) {
  const typename V::I lowest = V::set1_i(low);
  const typename V::I highest = V::set1_i(high);
  int64_t count = 0;
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    const typename V::I key = V::load_i(keys + i);
    const uint32_t outside = V::greater(lowest, key) | V::greater(key, highest);
    count += V::append(out + count, ~outside & V::kAllLanes, key);
  }
  for (; i < n; ++i) {
    if (keys[i] >= low && keys[i] <= high) {
      out[count++] = keys[i];
    }
  }
  return count;
}

/// The lowest `count` set bits of a mask.
inline uint32_t lowest_bits(uint32_t mask, int64_t count) {
  uint32_t rest = mask;
  for (int64_t i = 0; i < count && rest != 0; ++i) {
    rest &= rest - 1;
  }
  return mask ^ rest;
}

template <class V>
int64_t take_largest(const int32_t* keys, int64_t n, int32_t threshold, int64_t ties, int32_t* positions) {
  const typename V::I limit = V::set1_i(threshold);
  typename V::I position = V::iota();
  const typename V::I step = V::set1_i(static_cast<int32_t>(V::kLanes));
  int64_t count = 0;
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    const typename V::I key = V::load_i(keys + i);
    uint32_t taken = V::greater(key, limit);
    const uint32_t below = V::greater(limit, key);
    const uint32_t equal = ~(taken | below) & V::kAllLanes;
    if (equal != 0 && ties > 0) {
      const uint32_t first = lowest_bits(equal, ties);
      ties -= __builtin_popcount(first);
      taken |= first;
    }
    count += V::append(positions + count, taken, position);
    position = V::add_i(position, step);
  }
  for (; i < n; ++i) {
    const bool tie = keys[i] == threshold && ties > 0;
    if (keys[i] > threshold || tie) {
      positions[count++] = static_cast<int32_t>(i);
      ties -= tie ? 1 : 0;
    }
  }
  return count;
}

}  // namespace
}  // namespace sluice::cpu
