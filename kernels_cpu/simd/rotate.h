// Rotary embedding in both layouts, on the vector vocabulary V. The operations and their order are those of
// rope.cpp, so the bits are too.
#pragma once

#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/elementwise.h"

namespace sluice::cpu {
namespace {

template <class V>
void rope_interleaved(const float* cos_sin, int64_t pairs, float* x) {
  constexpr int64_t kPairs = V::kLanes / 2;
  const float* sin = cos_sin + pairs;
  int64_t i = 0;
  for (; i + kPairs <= pairs; i += kPairs) {
    const typename V::F both = V::load(x + 2 * i);
    const typename V::F along = V::mul(both, V::load_twice(cos_sin + i));
    // {-b s, a s, ...}: a c + -(b s) is a c - b s.
    const typename V::F across = V::mul(V::swap_pairs(both), V::negate_even(V::load_twice(sin + i)));
    V::store(x + 2 * i, V::add(along, across));
  }
  for (; i < pairs; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * cos_sin[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos_sin[i];
  }
}

template <class V>
void rope_half_split(const float* cos_sin, int64_t pairs, float* x) {
  const float* sin = cos_sin + pairs;
  for_vectors<V>(pairs, [&](int64_t i, int64_t lanes) {
    const typename V::F c = load_lanes<V>(cos_sin + i, lanes);
    const typename V::F s = load_lanes<V>(sin + i, lanes);
    const typename V::F a = load_lanes<V>(x + i, lanes);
    const typename V::F b = load_lanes<V>(x + pairs + i, lanes);
    store_lanes<V>(x + i, lanes, V::sub(V::mul(a, c), V::mul(b, s)));
    store_lanes<V>(x + pairs + i, lanes, V::add(V::mul(a, s), V::mul(b, c)));
  });
}

}  // namespace
}  // namespace sluice::cpu
