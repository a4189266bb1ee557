// The vocabulary of the kernel templates on AVX2 + FMA + F16C: eight float lanes. vector_avx512.h is its
// twin; each name means the same there. It includes this one for its half vectors.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  using I = __m256i;  // int32 lanes
  using Half = Avx2;  // there is no smaller one

  static constexpr int64_t kLanes = 8;
  static constexpr int kDotRows = 3;   // gemm_nt tile: 3 x 4 accumulators and 4 operands fill 16 registers
  static constexpr int kAxpyRows = 6;  // gemm_nn_add tile: 6 rows x 2 vectors
  static constexpr int kAxpyWideRows = 4;  // the same for many columns: 12 accumulators, too
  static constexpr int kAxpyWideVectors = 3;
  static constexpr uint32_t kAllLanes = 0xFF;  // of a comparison's mask

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

  /// b where x equals y, else c.
  static F where_equal(F x, F y, F b, F c) { return _mm256_blendv_ps(c, b, _mm256_cmp_ps(x, y, _CMP_EQ_OQ)); }

  /// kLanes / 2 values, each in two neighbouring lanes.
  static F load_twice(const float* p) {
    const __m256i lanes = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), lanes);
  }
  static F swap_pairs(F a) { return _mm256_permute_ps(a, 0xB1); }
  static F negate_even(F a) { return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi64x(0x80000000))); }

  /// rows[i][j] <-> rows[j][i]
  static void transpose(F (&rows)[8]) {
    F quads[8];  // quads[4 r + c]: column c of either half, rows 4 r to 4 r + 3
#pragma GCC unroll 2
    for (int r = 0; r < 8; r += 4) {
      const F low01 = _mm256_unpacklo_ps(rows[r], rows[r + 1]);
      const F high01 = _mm256_unpackhi_ps(rows[r], rows[r + 1]);
      const F low23 = _mm256_unpacklo_ps(rows[r + 2], rows[r + 3]);
      const F high23 = _mm256_unpackhi_ps(rows[r + 2], rows[r + 3]);
      quads[r] = _mm256_shuffle_ps(low01, low23, 0x44);
      quads[r + 1] = _mm256_shuffle_ps(low01, low23, 0xEE);
      quads[r + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
      quads[r + 3] = _mm256_shuffle_ps(high01, high23, 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      rows[c] = _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x20);
      rows[c + 4] = _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x31);
    }
  }

  static I load_i(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_i(int32_t* p, I a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
  }
  static I set1_i(int32_t x) {
    return _mm256_set1_epi32(x);
  }
  static I iota() {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  }
  static I add_i(I a, I b) {
    return _mm256_add_epi32(a, b);
  }
  static I bits(F a) {
    return _mm256_castps_si256(a);
  }
  /// a, all bits but the sign flipped where a is negative.
  static I flip_negative(I a) {
    return _mm256_xor_si256(a, _mm256_srli_epi32(_mm256_srai_epi32(a, 31), 1));
  }
  /// Bit i: a[i] > b[i].
  static uint32_t greater(I a, I b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))));
  }
  /// Writes the lanes of the mask one after the other and returns how many. Nothing beyond them is written.
  static int64_t append(int32_t* p, uint32_t mask, I a) {
    int32_t lanes[kLanes];
    int64_t count = 0;
    if (mask != 0) {
      store_i(lanes, a);
    }
    for (; mask != 0; mask &= mask - 1) {
      p[count++] = lanes[__builtin_ctz(mask)];
    }
    return count;
  }

 private:
  static __m256i first(int64_t n) {
    static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
  }
};

}  // namespace
}  // namespace sluice::cpu
