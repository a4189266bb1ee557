// exp and silu over the vector vocabulary V, to about 1 and 3 units in the last place.
#pragma once

#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

// 1.5 * 2^23: adding it rounds a small float to an integer, which then lies in the low mantissa bits.
inline constexpr float kRoundToInteger = 12582912.0F;

/// exp(x). Exactly 1 at 0, 0 at -infinity and below -104, infinity above 88.73, gradual underflow between.
template <class V>
typename V::F exp(typename V::F x) {
  using F = typename V::F;
  // Beyond these the result is 0 or infinity anyway; inside, 2^n fits two factors. max and min pass a NaN on.
  x = V::min(V::set1(89.0F), V::max(V::set1(-104.0F), x));
  const F magic = V::set1(kRoundToInteger);
  // x = n ln 2 + r, |r| <= ln(2)/2; ln 2 in two parts, so that n times the first is exact.
  const F n = V::sub(V::fma(x, V::set1(1.44269504F), magic), magic);
  F r = V::fma(n, V::set1(-0.693359375F), x);
  r = V::fma(n, V::set1(2.12194440e-4F), r);
  // exp(r) = 1 + r + r^2 (1/2 + r/6 + ...): the Taylor series, whose first dropped term is below 2^-26.
  F p = V::set1(1.0F / 5040.0F);
  p = V::fma(p, r, V::set1(1.0F / 720.0F));
  p = V::fma(p, r, V::set1(1.0F / 120.0F));
  p = V::fma(p, r, V::set1(1.0F / 24.0F));
  p = V::fma(p, r, V::set1(1.0F / 6.0F));
  p = V::fma(p, r, V::set1(0.5F));
  p = V::fma(V::mul(r, r), p, r);
  p = V::add(p, V::set1(1.0F));
  // 2^n in two halves: one alone would leave the range of normal floats for a subnormal or an overflowing
  // result.
  const F half = V::fma(n, V::set1(0.5F), magic);
  const F rest = V::add(V::sub(n, V::sub(half, magic)), magic);
  return V::mul(V::mul(p, V::pow2(half)), V::pow2(rest));
}

/// x / (1 + exp(-x)), finite for every finite x.
template <class V>
typename V::F silu(typename V::F x) {
  const typename V::F e = exp<V>(V::sub(V::zero(), x));
  return V::div(x, V::add(V::set1(1.0F), e));
}

}  // namespace
}  // namespace sluice::cpu
