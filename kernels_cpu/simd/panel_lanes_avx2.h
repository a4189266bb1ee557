// The lane vocabulary of the panel kernels on AVX2, FMA and F16C: one 32-bit lane for each of eight rows.
// panel_lanes_avx512.h is its twin; each name means the same there.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"
#include "quant/base/number.h"

namespace sluice::cpu {
namespace {

struct PanelAvx2 {
  using I = __m256i;
  using F = __m256;

  static constexpr int64_t kLanes = 8;
  static constexpr int kTokenTile = 4;  // four sums and eight words of sixteen registers

  static I words(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I splat(int32_t x) { return _mm256_set1_epi32(x); }
  /// The same four bytes in every lane.
  static I splat4(const int8_t* p) {
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static I bits(I a, uint32_t mask) { return _mm256_and_si256(a, splat(static_cast<int32_t>(mask))); }
  static I either(I a, I b) { return _mm256_or_si256(a, b); }
  static I shift_left(I a, int n) { return _mm256_slli_epi32(a, n); }
  static I shift_right(I a, int n) { return _mm256_srli_epi32(a, n); }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  /// a * b + c and a * b - c, rounded once.
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  /// The bits of each lane as a float.
  static F as_float(I a) { return _mm256_castsi256_ps(a); }

  static F halves(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F signed_bytes(const std::byte* p) { return to_float(_mm256_cvtepi8_epi32(load8(p))); }
  /// e4m3 / 2 of the low seven bits, 0x7F as 0, of two groups of columns: shifted into place they are an f16
  /// that is 2^8 too small.
  static void e4m3_halved(const std::byte* p, F (&out)[2]) {
    const __m128i nan = _mm_set1_epi8(0x7F);
    for (int g = 0; g < 2; ++g) {
      const __m128i low = _mm_and_si128(load8(p + g * quant::kPanelRows), nan);
      const __m128i number = _mm_andnot_si128(_mm_cmpeq_epi8(low, nan), low);
      out[g] = mul(_mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(number), 7)), set1(128.0F));
    }
  }
  /// 2^(e - 128), subnormal for e < 2.
  static F e8m0_halved(const std::byte* p) {
    const I e = _mm256_cvtepu8_epi32(load8(p));
    const I normal = _mm256_slli_epi32(_mm256_sub_epi32(e, splat(1)), 23);
    const I subnormal = _mm256_sllv_epi32(splat(0x00200000), e);
    return as_float(_mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(splat(2), e)));
  }
  /// Of the low and of the high nibbles, in bytes: the doubled e2m1 value plus 16.
  static void e2m1_doubled_plus_16(I word, I& low, I& high) {
    const auto& t = kE2m1Doubled;
    const __m128i table = _mm_setr_epi8(t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10],
                                        t[11], t[12], t[13], t[14], t[15]);
    const I shifted = _mm256_broadcastsi128_si256(_mm_add_epi8(table, _mm_set1_epi8(16)));
    low = _mm256_shuffle_epi8(shifted, bits(word, 0x0F0F0F0F));
    high = _mm256_shuffle_epi8(shifted, bits(shift_right(word, 4), 0x0F0F0F0F));
  }

  /// sum + the four products of the lane's unsigned bytes, at most 63, with x[0..4), the same for every lane.
  static I dot(I sum, I codes, const int8_t* x) { return products(sum, codes, splat4(x)); }

  // Signed codes: a product of magnitudes, the sign moved to the activation. Nothing to take back. Pairs of
  // products stay below 2^15, because activations do not reach -128 (128 * 127 * 2 = 32512).
  static I signed_codes(I words) { return words; }
  static I signed_start(int32_t /*term*/) { return _mm256_setzero_si256(); }
  static I dot_signed(I sum, I codes, const int8_t* x) {
    return products(sum, _mm256_abs_epi8(codes), _mm256_sign_epi8(splat4(x), codes));
  }

  // Lanes as columns, for quantizing a row of floats.
  /// The bits of |x|, whose order is that of the magnitudes, NaN beyond infinity.
  static I magnitude_bits(F x) { return bits(_mm256_castps_si256(x), 0x7FFFFFFFU); }
  static I larger(I a, I b) { return _mm256_max_epu32(a, b); }
  static uint32_t largest(I a) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4E));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32(m, 0xB1))));
  }
  static int32_t sum(I a) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
  }
  /// To nearest, ties to even, at least -127; NaN gives -127.
  static I to_code(F x) { return _mm256_max_epi32(_mm256_cvtps_epi32(x), splat(-127)); }
  static void store_codes(int8_t* p, I codes) {
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
  }

 private:
  static I products(I sum, I codes, I x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
  }
  static __m128i load8(const std::byte* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
};

}  // namespace
}  // namespace sluice::cpu
