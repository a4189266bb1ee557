// Four floats at a time, in the vector syntax that GCC and Clang share. The encoders' searches over scales
// are written with it because sums of floats are not vectorized otherwise; it needs no more than baseline
// SSE2.
#pragma once

#include <cstring>

namespace sluice::quant {

using Float4 = float __attribute__((vector_size(16)));

inline constexpr size_t kLanes = 4;

inline Float4 load4(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline Float4 splat4(float x) {
  return Float4{x, x, x, x};
}

inline float sum4(Float4 v) {
  return (v[0] + v[1]) + (v[2] + v[3]);
}

/// Into [low, high]. NaN becomes low, so that a conversion to an integer stays defined.
inline Float4 clamp4(Float4 v, float low, float high) {
  const Float4 above = v > splat4(low) ? v : splat4(low);
  return above < splat4(high) ? above : splat4(high);
}

/// To the nearest integer, ties to even, for |v| < 2^22: at 1.5 * 2^23 a float's last place is one.
inline Float4 round4(Float4 v) {
  const Float4 magic = splat4(0x1.8p23F);
  return (v + magic) - magic;
}

inline Float4 abs4(Float4 v) {
  return v < splat4(0.0F) ? -v : v;
}

inline float round1(float x) {
  return (x + 0x1.8p23F) - 0x1.8p23F;
}

}  // namespace sluice::quant
