// Kernels over one row, on the vector vocabulary V: norms, SwiGLU, scaling, bf16 rounding. The last,
// partial vector runs the same operations in masked lanes, so an element does not depend on the row's end.
#pragma once

#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/exp.h"

namespace sluice::cpu {
namespace {

/// Calls body(i, lanes) for every vector of [0, n): lanes is V::kLanes except perhaps at the last.
template <class V, class Body>
void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    body(i, V::kLanes);
  }
  if (i < n) {
    body(i, n - i);
  }
}

template <class V>
typename V::F load_lanes(const float* p, int64_t lanes) {
  return lanes == V::kLanes ? V::load(p) : V::load_first(p, lanes);
}

template <class V>
void store_lanes(float* p, int64_t lanes, typename V::F a) {
  if (lanes == V::kLanes) {
    V::store(p, a);
  } else {
    V::store_first(p, lanes, a);
  }
}

template <class V>
void rms_norm(const float* x, const float* gain, float eps, int64_t n, float* y) {
  typename V::F squares = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    const typename V::F v = load_lanes<V>(x + i, lanes);
    squares = V::fma(v, v, squares);
  });
  const float mean = V::sum(squares) / static_cast<float>(n);
  const typename V::F inverse = V::set1(1.0F / sqrtf(mean + eps));
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    const typename V::F v = V::mul(load_lanes<V>(x + i, lanes), inverse);
    store_lanes<V>(y + i, lanes, V::mul(load_lanes<V>(gain + i, lanes), v));
  });
}

template <class V>
void layer_norm(const float* x, const float* gain, const float* bias, float eps, int64_t n, float* y) {
  typename V::F sum = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) { sum = V::add(sum, load_lanes<V>(x + i, lanes)); });
  const typename V::F mean = V::set1(V::sum(sum) / static_cast<float>(n));
  typename V::F squares = V::zero();
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    const typename V::F off = V::sub(load_lanes<V>(x + i, lanes), mean);
    const typename V::F kept = lanes == V::kLanes ? off : V::first_or(off, lanes, V::zero());
    squares = V::fma(kept, kept, squares);
  });
  const float variance = V::sum(squares) / static_cast<float>(n);
  const typename V::F inverse = V::set1(1.0F / sqrtf(variance + eps));
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    const typename V::F v = V::mul(V::sub(load_lanes<V>(x + i, lanes), mean), inverse);
    store_lanes<V>(y + i, lanes, V::fma(load_lanes<V>(gain + i, lanes), v, load_lanes<V>(bias + i, lanes)));
  });
}

template <class V>
void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    const typename V::F activated = silu<V>(load_lanes<V>(gate + i, lanes));
    store_lanes<V>(out + i, lanes, V::mul(activated, load_lanes<V>(up + i, lanes)));
  });
}

template <class V>
void add_scaled(const float* x, float factor, int64_t n, float* y) {
  const typename V::F f = V::set1(factor);
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    store_lanes<V>(y + i, lanes, V::fma(f, load_lanes<V>(x + i, lanes), load_lanes<V>(y + i, lanes)));
  });
}

template <class V>
void scale(float factor, int64_t n, float* y) {
  const typename V::F f = V::set1(factor);
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    store_lanes<V>(y + i, lanes, V::mul(f, load_lanes<V>(y + i, lanes)));
  });
}

template <class V>
void to_bf16(const float* x, int64_t n, uint16_t* y) {
  for_vectors<V>(n, [&](int64_t i, int64_t lanes) {
    if (lanes == V::kLanes) {
      V::store_bf16(y + i, V::load(x + i));
    } else {
      uint16_t edge[V::kLanes];
      V::store_bf16(edge, V::load_first(x + i, lanes));
      memcpy(y + i, edge, static_cast<size_t>(lanes) * sizeof(uint16_t));
    }
  });
}

}  // namespace
}  // namespace sluice::cpu
