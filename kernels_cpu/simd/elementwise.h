// Kernels over one row, on the vector vocabulary V: norms, SwiGLU, scaling, bf16 rounding, the indexer's
// reduction. The last, partial vector runs the same operations in masked lanes, so an element does not depend
// on the row's end.
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
void index_reduce(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t n,
                  float* scores) {
  for_vectors<V>(n, [&](int64_t j, int64_t lanes) {
    typename V::F sum = V::zero();
    for (int64_t h = 0; h < heads; ++h) {
      const typename V::F product = load_lanes<V>(products + h * stride + j, lanes);
      sum = V::fma(V::set1(weights[h]), V::max(product, V::zero()), sum);
    }
    store_lanes<V>(scores + j, lanes, sum);
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

/// See SoftmaxTile. A tile whose every score is -infinity before any other leaves the sum at 0.
template <class V>
void softmax_tile(SoftmaxTile& tile) {
  using F = typename V::F;
  const F lowest = V::set1(-INFINITY);
  const F factor = V::set1(tile.scale);
  F largest = V::set1(tile.running_max);
  for_vectors<V>(tile.n, [&](int64_t i, int64_t lanes) {
    const F scaled = V::mul(factor, load_lanes<V>(tile.scores + i, lanes));
    largest = V::max(largest, lanes == V::kLanes ? scaled : V::first_or(scaled, lanes, lowest));
    store_lanes<V>(tile.scores + i, lanes, scaled);
  });
  const float new_max = V::max_of(largest);
  // With nothing but -infinity so far every weight is 0; -infinity - -infinity would be NaN.
  const F shift = V::set1(new_max == -INFINITY ? 0.0F : new_max);
  F sum = V::zero();
  for_vectors<V>(tile.n, [&](int64_t i, int64_t lanes) {
    const F weight = exp<V>(V::sub(load_lanes<V>(tile.scores + i, lanes), shift));
    sum = V::add(sum, lanes == V::kLanes ? weight : V::first_or(weight, lanes, V::zero()));
    store_lanes<V>(tile.scores + i, lanes, weight);
  });
  float rescale[V::kLanes];
  V::store(rescale, exp<V>(V::sub(V::set1(tile.running_max), shift)));
  tile.rescale = rescale[0];
  tile.running_sum = tile.running_sum * tile.rescale + V::sum(sum);
  tile.running_max = new_max;
}

}  // namespace
}  // namespace sluice::cpu
