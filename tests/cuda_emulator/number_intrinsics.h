// CUDA's intrinsics on numbers and bits (CUDA Math API Reference Manual), and the mathematical functions that
// C++ has no overloads of. The host's compiler contracts no product and sum to one rounding by itself, as
// nvcc does.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace sluice::emulator {

/// prmt.b32: byte i of the result is the byte of the eight in (low, high) that bits 0..2 of nibble i name, or
/// eight times its top bit where the nibble's bit 3 is set.
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t all = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    auto byte = static_cast<uint32_t>(all >> (8 * (nibble & 7)) & 0xFF);
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}

}  // namespace sluice::emulator

using std::isnan;

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): CUDA's names
template <typename A, typename B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline float rsqrtf(float x) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x)));
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fmaf(a, b, c);
}

inline uint32_t __float_as_uint(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline int32_t __float_as_int(float x) {
  return std::bit_cast<int32_t>(x);
}
inline float __uint_as_float(uint32_t x) {
  return std::bit_cast<float>(x);
}
inline float __int_as_float(int32_t x) {
  return std::bit_cast<float>(x);
}

/// To the nearest, ties to even; the ends of int32 for what is beyond them, 0 for NaN.
inline int32_t __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0F) return INT32_MAX;
  if (x <= -2147483648.0F) return INT32_MIN;
  return static_cast<int32_t>(std::nearbyintf(x));
}

inline int __popc(uint32_t x) {
  return std::popcount(x);
}
inline int __popcll(uint64_t x) {
  return std::popcount(x);
}
inline int __clz(int32_t x) {
  return std::countl_zero(static_cast<uint32_t>(x));
}
inline int __clzll(int64_t x) {
  return std::countl_zero(static_cast<uint64_t>(x));
}
/// Counted from 1; 0 when no bit is set.
inline int __ffs(int32_t x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(x)) + 1;
}
inline uint32_t __brev(uint32_t x) {
  uint32_t reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  return sluice::emulator::permute_bytes(low, high, selector);
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)
