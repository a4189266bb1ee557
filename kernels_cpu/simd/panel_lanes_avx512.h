// The lane vocabulary of the panel kernels on AVX-512 F, BW, VL, DQ: one 32-bit lane for each of sixteen
// rows. panel_lanes_avx2.h and panel_lanes_scalar.h are its twins; each name means the same there.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"
#include "quant/base/number.h"

namespace sluice::cpu {
namespace {

struct PanelAvx512 {
  using I = __m512i;
  using F = __m512;

  static constexpr int64_t kLanes = 16;
  static constexpr int kTokenTile = 8;  // eight sums and eight words of 32 registers

  static I words(const std::byte* p) { return _mm512_loadu_si512(p); }
  static I splat(int32_t x) { return _mm512_set1_epi32(x); }
  /// The same four bytes in every lane.
  static I splat4(const int8_t* p) {
    int32_t four;
    memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static I bits(I a, uint32_t mask) { return _mm512_and_si512(a, splat(static_cast<int32_t>(mask))); }
  static I either(I a, I b) { return _mm512_or_si512(a, b); }
  static I shift_left(I a, int n) { return _mm512_slli_epi32(a, static_cast<unsigned>(n)); }
  static I shift_right(I a, int n) { return _mm512_srli_epi32(a, static_cast<unsigned>(n)); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  /// a * b + c and a * b - c, rounded once.
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  /// The bits of each lane as a float.
  static F as_float(I a) { return _mm512_castsi512_ps(a); }

  static F halves(const std::byte* p) { return _mm512_cvtph_ps(load32(p)); }
  static F signed_bytes(const std::byte* p) { return to_float(_mm512_cvtepi8_epi32(load16(p))); }
  /// e4m3 / 2 of the low seven bits, 0x7F as 0, of two groups of columns: shifted into place they are an f16
  /// that is 2^8 too small.
  static void e4m3_halved(const std::byte* p, F (&out)[2]) {
    const __m256i low = _mm256_and_si256(load32(p), _mm256_set1_epi8(0x7F));
    const __m256i number = _mm256_maskz_mov_epi8(_mm256_cmpneq_epi8_mask(low, _mm256_set1_epi8(0x7F)), low);
    const I halves = _mm512_slli_epi16(_mm512_cvtepu8_epi16(number), 7);
    out[0] = mul(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), set1(128.0F));
    out[1] = mul(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)), set1(128.0F));
  }
  /// 2^(e - 128), subnormal for e < 2.
  static F e8m0_halved(const std::byte* p) {
    const I e = _mm512_cvtepu8_epi32(load16(p));
    const I normal = _mm512_slli_epi32(_mm512_sub_epi32(e, splat(1)), 23);
    const I subnormal = _mm512_sllv_epi32(splat(0x00200000), e);
    return as_float(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, splat(2)), normal, subnormal));
  }
  /// Of the low and of the high nibbles, in bytes: the doubled e2m1 value plus 16.
  static void e2m1_doubled_plus_16(I word, I& low, I& high) {
    low = _mm512_shuffle_epi8(e2m1_table(), bits(word, 0x0F0F0F0F));
    high = _mm512_shuffle_epi8(e2m1_table(), bits(shift_right(word, 4), 0x0F0F0F0F));
  }

  /// sum + the four products of the lane's unsigned bytes, at most 63, with x[0..4), the same for every lane.
  static I dot(I sum, I codes, const int8_t* x) { return products(sum, codes, splat4(x)); }

  // Signed codes: a product of magnitudes, the sign moved to the activation. Nothing to take back.
  static I signed_codes(I words) { return words; }
  static I signed_start(int32_t /*term*/) { return _mm512_setzero_si512(); }
  static I dot_signed(I sum, I codes, const int8_t* x) {
    const I four = splat4(x);
    const __mmask64 negative = _mm512_movepi8_mask(codes);
    return products(sum, _mm512_abs_epi8(codes),
                    _mm512_mask_sub_epi8(four, negative, _mm512_setzero_si512(), four));
  }

  // Lanes as columns, for quantizing a row of floats.
  /// The bits of |x|, whose order is that of the magnitudes, NaN beyond infinity.
  static I magnitude_bits(F x) { return bits(_mm512_castps_si512(x), 0x7FFFFFFFU); }
  static I larger(I a, I b) { return _mm512_max_epu32(a, b); }
  static uint32_t largest(I a) { return _mm512_reduce_max_epu32(a); }
  static int32_t sum(I a) { return _mm512_reduce_add_epi32(a); }
  /// To nearest, ties to even, at least -127; NaN gives -127.
  static I to_code(F x) { return _mm512_max_epi32(_mm512_cvtps_epi32(x), splat(-127)); }
  static void store_codes(int8_t* p, I codes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
  }

 protected:
  /// e2m1_doubled_plus_16 by nibble, four times over.
  static I e2m1_table() {
    const auto& t = kE2m1Doubled;
    const __m128i table = _mm_setr_epi8(t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10],
                                        t[11], t[12], t[13], t[14], t[15]);
    return _mm512_broadcast_i32x4(_mm_add_epi8(table, _mm_set1_epi8(16)));
  }

 private:
  static I products(I sum, I codes, I x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1)));
  }
  static __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m256i load32(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};

}  // namespace
}  // namespace sluice::cpu
