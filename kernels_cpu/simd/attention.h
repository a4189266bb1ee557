// What attention needs between its products, on the vector vocabulary V, with a lane per head: the running
// softmax of a tile, the indexer's sum over heads, and the transposition that puts heads into lanes.
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/elementwise.h"
#include "kernels_cpu/simd/exp.h"

namespace sluice::cpu {
namespace {

/// See SoftmaxTile, for `lanes` heads from h on.
template <class V>
void softmax_heads(const SoftmaxTile& tile, int64_t h, int64_t lanes) {
  using F = typename V::F;
  const F factor = V::set1(tile.scale);
  const F old_max = load_lanes<V>(tile.running_max + h, lanes);
  F largest = old_max;
  for (int64_t j = 0; j < tile.n; ++j) {
    largest = V::max(largest, V::mul(factor, load_lanes<V>(tile.scores + j * tile.stride + h, lanes)));
  }
  // With nothing but -infinity so far every weight is 0; -infinity - -infinity would be NaN.
  const F shift = V::where_equal(largest, V::set1(-INFINITY), V::zero(), largest);
  F sum = V::zero();
  for (int64_t j = 0; j < tile.n; ++j) {
    float* score = tile.scores + j * tile.stride + h;
    const F weight = exp<V>(V::sub(V::mul(factor, load_lanes<V>(score, lanes)), shift));
    sum = V::add(sum, weight);
    store_lanes<V>(score, lanes, weight);
  }
  const F rescale = exp<V>(V::sub(old_max, shift));
  const F old_sum = V::mul(load_lanes<V>(tile.running_sum + h, lanes), rescale);
  store_lanes<V>(tile.rescale + h, lanes, rescale);
  store_lanes<V>(tile.running_sum + h, lanes, V::add(old_sum, sum));
  store_lanes<V>(tile.running_max + h, lanes, largest);
}

template <class V>
void softmax_tile(const SoftmaxTile& tile) {
  for_vectors<V>(tile.heads, [&](int64_t h, int64_t lanes) {
    if (lanes <= V::Half::kLanes) {
      softmax_heads<typename V::Half>(tile, h, lanes);  // the same operations in each lane
    } else {
      softmax_heads<V>(tile, h, lanes);
    }
  });
}

/// Four keys' sums over heads; keys beyond n repeat the last one.
template <class V>
__m128 index_sums4(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t n) {
  const float* row[4];
  typename V::F sum[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    row[r] = products + (r < n ? r : n - 1) * stride;
    sum[r] = V::zero();
  }
  for_vectors<V>(heads, [&](int64_t h, int64_t lanes) {
    const typename V::F weight = load_lanes<V>(weights + h, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      sum[r] = V::fma(weight, V::max(load_lanes<V>(row[r] + h, lanes), V::zero()), sum[r]);
    }
  });
  return V::sums4(sum[0], sum[1], sum[2], sum[3]);
}

template <class V>
void index_reduce(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t n,
                  float* scores) {
  for (int64_t j = 0; j < n; j += 4) {
    const __m128 sums = index_sums4<V>(products + j * stride, stride, weights, heads, n - j);
    if (j + 4 <= n) {
      _mm_storeu_ps(scores + j, sums);
    } else {
      float edge[4];
      _mm_storeu_ps(edge, sums);
      memcpy(scores + j, edge, static_cast<size_t>(n - j) * sizeof(float));
    }
  }
}

/// kLanes columns of `rows` <= kLanes rows; lanes beyond them are not written.
template <class V>
void transpose_block(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) {
  typename V::F block[static_cast<size_t>(V::kLanes)];
#pragma GCC unroll 16
  for (int64_t i = 0; i < V::kLanes; ++i) {
    block[i] = i < rows ? V::load(x + i * ldx) : V::zero();
  }
  V::transpose(block);
#pragma GCC unroll 16
  for (int64_t i = 0; i < V::kLanes; ++i) {
    store_lanes<V>(y + i * ldy, rows, block[i]);
  }
}

template <class V>
void transpose(const float* x, int64_t ldx, int64_t rows, int64_t cols, float* y, int64_t ldy) {
  const int64_t whole_cols = cols / V::kLanes * V::kLanes;
  for_vectors<V>(rows, [&](int64_t r, int64_t lanes) {
    for (int64_t c = 0; c < whole_cols; c += V::kLanes) {
      transpose_block<V>(x + r * ldx + c, ldx, lanes, y + c * ldy + r, ldy);
    }
  });
  for (int64_t c = whole_cols; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      y[c * ldy + r] = x[r * ldx + c];
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
