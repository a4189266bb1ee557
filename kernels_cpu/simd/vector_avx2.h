// The vocabulary of the kernel templates on AVX2 + FMA + F16C: eight float lanes. Only kernels_avx2.cpp
// includes it. vector_avx512.h is its twin; each name means the same there.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

struct Avx2 {
  using F = __m256;

  static constexpr int64_t kLanes = 8;
  static constexpr int kDotRows = 3;      // gemm_nt tile: 3 x 4 accumulators and 4 operands fill 16 registers
  static constexpr int kAxpyVectors = 2;  // gemm_nn_add tile: 4 rows x 2 vectors keep two FMA pipes busy

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  /// a * b + c, rounded once.
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  /// The second operand where either is NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  /// The first n < kLanes lanes; the others are 0 and their memory is not touched.
  static F load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, int64_t n, F a) { _mm256_maskstore_ps(p, first(n), a); }
  /// a in the first n lanes, `rest` in the others.
  static F first_or(F a, int64_t n, F rest) {
    return _mm256_blendv_ps(rest, a, _mm256_castsi256_ps(first(n)));
  }

  static F load_f16(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static F load_bf16(const void* p) {
    const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  /// kLanes values rounded to nearest even; NaN stays NaN.
  static void store_bf16(uint16_t* p, F a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i top = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(rounded, quiet, is_nan);
    const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
  }

  /// Sixteen signed bytes as floats: lanes [part * kLanes, part * kLanes + kLanes).
  template <int kPart>
  static F widen(__m128i bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, kPart * 8)));
  }

  /// 2^i where `biased` is kRoundToInteger + i: the integer lies in its low mantissa bits. i in [-126, 127].
  static F pow2(F biased) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(biased), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3F800000)));
  }

  static float max_of(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }

  /// The four lane sums {a, b, c, d}, every one by the same tree of additions.
  static __m128 sums4(F a, F b, F c, F d) {
    const F ab = add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));  // a.. | b..
    const F cd = add(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    // Per half: [x0+x2, y0+y2, x1+x3, y1+y3] with x from ab, y from cd.
    const F pairs = add(_mm256_unpacklo_ps(ab, cd), _mm256_unpackhi_ps(ab, cd));
    const F full = add(pairs, _mm256_permute_ps(pairs, 0x4E));  // half 0: a c a c, half 1: b d b d
    return _mm_unpacklo_ps(_mm256_castps256_ps128(full), _mm256_extractf128_ps(full, 1));
  }
  static float sum(F a) { return _mm_cvtss_f32(sums4(a, zero(), zero(), zero())); }

 private:
  static __m256i first(int64_t n) {
    static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
  }
};

}  // namespace
}  // namespace sluice::cpu
