// Activations to int8, over the lane vocabulary V with its lanes as columns (contract: kernels_cpu/panel.h).
#pragma once

#include "kernels_cpu/panel.h"
#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

/// The largest |x| of a block; NaN when there is one.
template <class V>
float block_magnitude(const float* x) {
  typename V::I biggest = V::splat(0);
  for (int64_t i = 0; i < kActivationBlock; i += V::kLanes) {
    biggest = V::larger(biggest, V::magnitude_bits(V::load(x + i)));
  }
  const uint32_t bits = V::largest(biggest);
  float magnitude;
  memcpy(&magnitude, &bits, sizeof(magnitude));
  return magnitude;
}

/// Codes of one block; sums[0] and sums[1] are those of its halves.
template <class V>
void block_codes(const float* x, float inverse, int8_t* codes, int32_t* sums) {
  sums[0] = 0;
  sums[1] = 0;
  for (int64_t i = 0; i < kActivationBlock; i += V::kLanes) {
    const typename V::I code = V::to_code(V::mul(V::load(x + i), V::set1(inverse)));
    V::store_codes(codes + i, code);
    sums[i / (kActivationBlock / 2)] += V::sum(code);
  }
}

template <class V>
void quantize(const float* x, int64_t cols, PanelNumerics numerics, const PanelKernels::QuantizedRow& out) {
  float* scale = out.scales;
  int32_t* term = out.terms;
  for (int64_t i = 0; i < cols; i += kActivationBlock) {
    const float magnitude = block_magnitude<V>(x + i);
    const bool vanishes = magnitude < kLeastActivation;  // false for NaN
    int32_t sums[2];
    block_codes<V>(x + i, vanishes ? 0.0F : 127.0F / magnitude, out.codes + i, sums);
    *scale = vanishes ? 0.0F : magnitude / 127.0F;
    scale += out.stride;
    if (numerics.group == kActivationBlock) {
      *term = numerics.term_factor * (sums[0] + sums[1]);
    } else {
      term[0] = numerics.term_factor * sums[0];
      term[out.stride] = numerics.term_factor * sums[1];
    }
    term += kActivationBlock / numerics.group * out.stride;
  }
}

}  // namespace
}  // namespace sluice::cpu
