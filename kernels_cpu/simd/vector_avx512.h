// The vocabulary of the kernel templates on AVX-512 F, BW, VL, DQ: sixteen float lanes. Only
// kernels_avx512.cpp includes it. vector_avx2.h is its twin; each name means the same there.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/vector_avx2.h"

namespace sluice::cpu {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;  // int32 lanes
  using Half = Avx2;  // for what fills no more than half of a vector

  static constexpr int64_t kLanes = 16;
  static constexpr int kDotRows = 4;       // gemm_nt tile: 4 x 4 accumulators of 32 registers
  static constexpr int kAxpyRows = 8;      // gemm_nn_add tile: 8 rows x 2 vectors
  static constexpr int kAxpyWideRows = 4;  // the same for many columns: fewer rows of c at a time
  static constexpr int kAxpyWideVectors = 4;
  static constexpr uint32_t kAllLanes = 0xFFFF;  // of a comparison's mask

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  /// a * b + c, rounded once.
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  /// The second operand where either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  /// The first n < kLanes lanes; the others are 0 and their memory is not touched.
  static F load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, int64_t n, F a) { _mm512_mask_storeu_ps(p, first(n), a); }
  /// a in the first n lanes, `rest` in the others.
  static F first_or(F a, int64_t n, F rest) { return _mm512_mask_blend_ps(first(n), rest, a); }

  static F load_f16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static F load_bf16(const void* p) {
    const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  /// kLanes values rounded to nearest even; NaN stays NaN.
  static void store_bf16(uint16_t* p, F a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i top = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __m512i quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    const __m512i wide = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(wide));
  }

  /// Sixteen signed bytes as floats: lanes [part * kLanes, part * kLanes + kLanes).
  template <int kPart>
  static F widen(__m128i bytes) {
    static_assert(kPart == 0);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }

  /// 2^i where `biased` is kRoundToInteger + i: the integer lies in its low mantissa bits. i in [-126, 127].
  static F pow2(F biased) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(biased), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3F800000)));
  }

  static float max_of(F a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }

  /// The four lane sums {a, b, c, d}, every one by the same tree of additions.
  static __m128 sums4(F a, F b, F c, F d) {
    // Quarters of a vector: [a0+a2, a1+a3, b0+b2, b1+b3].
    const F ab = add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const F cd = add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    // One quarter each: [a, b, c, d].
    const F quarters = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    const F pairs = add(quarters, _mm512_permute_ps(quarters, 0x4E));
    const F full = add(pairs, _mm512_permute_ps(pairs, 0xB1));
    const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(lanes, full));
  }
  static float sum(F a) { return _mm_cvtss_f32(sums4(a, zero(), zero(), zero())); }

  /// b where x equals y, else c.
  static F where_equal(F x, F y, F b, F c) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ), c, b);
  }

  /// kLanes / 2 values, each in two neighbouring lanes.
  static F load_twice(const float* p) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
  }
  static F swap_pairs(F a) { return _mm512_permute_ps(a, 0xB1); }
  static F negate_even(F a) { return _mm512_xor_ps(a, _mm512_castsi512_ps(_mm512_set1_epi64(0x80000000))); }

  /// rows[i][j] <-> rows[j][i]
  static void transpose(F (&rows)[16]) {
    F pairs[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    F quads[16];  // quads[4 r + c]: column c of every quarter, rows 4 r to 4 r + 3
#pragma GCC unroll 4
    for (int r = 0; r < 16; r += 4) {
      quads[r] = _mm512_shuffle_ps(pairs[r], pairs[r + 2], 0x44);
      quads[r + 1] = _mm512_shuffle_ps(pairs[r], pairs[r + 2], 0xEE);
      quads[r + 2] = _mm512_shuffle_ps(pairs[r + 1], pairs[r + 3], 0x44);
      quads[r + 3] = _mm512_shuffle_ps(pairs[r + 1], pairs[r + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F even = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0x88);  // quarters 0, 2 of both
      const F odd = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0xDD);
      const F even2 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0x88);
      const F odd2 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0xDD);
      rows[c] = _mm512_shuffle_f32x4(even, even2, 0x88);
      rows[c + 4] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
      rows[c + 8] = _mm512_shuffle_f32x4(even, even2, 0xDD);
      rows[c + 12] = _mm512_shuffle_f32x4(odd, odd2, 0xDD);
    }
  }

  static I load_i(const int32_t* p) {
    return _mm512_loadu_si512(p);
  }
  static void store_i(int32_t* p, I a) {
    _mm512_storeu_si512(p, a);
  }
  static I set1_i(int32_t x) {
    return _mm512_set1_epi32(x);
  }
  static I iota() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  static I add_i(I a, I b) {
    return _mm512_add_epi32(a, b);
  }
  static I bits(F a) {
    return _mm512_castps_si512(a);
  }
  /// a, all bits but the sign flipped where a is negative.
  static I flip_negative(I a) {
    return _mm512_xor_si512(a, _mm512_srli_epi32(_mm512_srai_epi32(a, 31), 1));
  }
  /// Bit i: a[i] > b[i].
  static uint32_t greater(I a, I b) {
    return _mm512_cmpgt_epi32_mask(a, b);
  }
  /// Writes the lanes of the mask one after the other and returns how many. Nothing beyond them is written.
  static int64_t append(int32_t* p, uint32_t mask, I a) {
    const auto lanes = static_cast<__mmask16>(mask);
    const int64_t count = __builtin_popcount(mask);
    // Compressing into memory directly is microcode on Zen 4.
    _mm512_mask_storeu_epi32(p, first(count), _mm512_maskz_compress_epi32(lanes, a));
    return count;
  }

 private:
  static __mmask16 first(int64_t n) {
    return static_cast<__mmask16>((1U << static_cast<uint32_t>(n)) - 1U);
  }
};

}  // namespace
}  // namespace sluice::cpu
