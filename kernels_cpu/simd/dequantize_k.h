// Decoding of Q4_K, Q5_K and Q6_K rows on the vector vocabulary V; see dequantize.h.
#pragma once

#include "kernels_cpu/simd/dequantize.h"
#include "quant/q4_k.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"

namespace sluice::cpu {
namespace {

/// The twelve packed bytes as eight scales and eight minima, all below 64 (layout: quant/k_scales.h).
struct KScales {
  uint8_t scale[8];
  uint8_t min[8];
};

inline KScales unpack_k_scales(const std::byte* packed) {
  uint32_t words[3];
  memcpy(words, packed, sizeof(words));
  constexpr uint32_t kSixBits = 0x3F3F3F3FU;
  constexpr uint32_t kNibble = 0x0F0F0F0FU;
  constexpr uint32_t kTopTwo = 0x30303030U;
  const uint32_t scales[2] = {words[0] & kSixBits, (words[2] & kNibble) | ((words[0] >> 2) & kTopTwo)};
  const uint32_t mins[2] = {words[1] & kSixBits, ((words[2] >> 4) & kNibble) | ((words[1] >> 2) & kTopTwo)};
  KScales unpacked;
  memcpy(unpacked.scale, scales, sizeof(scales));
  memcpy(unpacked.min, mins, sizeof(mins));
  return unpacked;
}

/// out[0..16) = scale * codes - offset: a product, then a difference, each rounded.
template <class V>
void store_affine(__m128i codes, typename V::F scale, typename V::F offset, float* out) {
  V::store(out, V::sub(V::mul(scale, V::template widen<0>(codes)), offset));
  if constexpr (V::kLanes == 8) {
    V::store(out + 8, V::sub(V::mul(scale, V::template widen<1>(codes)), offset));
  }
}

/// Bit `b` of each byte, as 0x10.
inline __m128i fifth_bit_of(__m128i high, int64_t b) {
  const __m128i bit = _mm_set1_epi8(static_cast<char>(1 << b));
  return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(high, bit), bit), _mm_set1_epi8(0x10));
}

/// Q4_K, and Q5_K, which is the same with a fifth bit in qh.
template <class V, class Block, bool kFiveBits>
void dequantize_q45_k(const std::byte* blocks, int64_t n, float* values) {
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const float d = load_f16_scale(blocks + offsetof(Block, d));
    const float dmin = load_f16_scale(blocks + offsetof(Block, dmin));
    const KScales k = unpack_k_scales(blocks + offsetof(Block, scales));
    for (int64_t b = 0; b < 8; b += 2) {
      const typename V::F scale0 = V::set1(d * static_cast<float>(k.scale[b]));
      const typename V::F scale1 = V::set1(d * static_cast<float>(k.scale[b + 1]));
      const typename V::F offset0 = V::set1(dmin * static_cast<float>(k.min[b]));
      const typename V::F offset1 = V::set1(dmin * static_cast<float>(k.min[b + 1]));
      for (int64_t half = 0; half < 32; half += 16) {
        const __m128i q = load16(blocks + offsetof(Block, qs) + 16 * b + half);
        __m128i low = low_nibbles(q);
        __m128i high = high_nibbles(q);
        if constexpr (kFiveBits) {
          const __m128i fifth = load16(blocks + offsetof(Block, qh) + half);
          low = _mm_or_si128(low, fifth_bit_of(fifth, b));
          high = _mm_or_si128(high, fifth_bit_of(fifth, b + 1));
        }
        float* out = values + i + 32 * b + half;
        store_affine<V>(low, scale0, offset0, out);
        store_affine<V>(high, scale1, offset1, out + 32);
      }
    }
  }
}

template <class V>
void dequantize_q4_k(const std::byte* blocks, int64_t n, float* values) {
  dequantize_q45_k<V, quant::BlockQ4_K, false>(blocks, n, values);
}

template <class V>
void dequantize_q5_k(const std::byte* blocks, int64_t n, float* values) {
  dequantize_q45_k<V, quant::BlockQ5_K, true>(blocks, n, values);
}

/// out[0..16) = (d * sub_scale) * (code - 32), code = low nibbles and the two bits in `high`, at bits 4
/// and 5.
template <class V>
void store_six_bits(__m128i low, __m128i high, float d, std::byte sub_scale, float* out) {
  const __m128i codes = _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(0x30)));
  const float scale = d * static_cast<float>(static_cast<int8_t>(sub_scale));
  store_scaled<V>(_mm_sub_epi8(codes, _mm_set1_epi8(32)), V::set1(scale), out);
}

template <class V>
void dequantize_q6_k(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockQ6_K;
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const float d = load_f16_scale(blocks + offsetof(Block, d));
    // Sixteen elements of each of the four groups of a half at a time; l = 0 or 16 inside the group.
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      const int64_t half = quarter / 2;
      const int64_t l = quarter % 2 * 16;
      const __m128i ql0 = load16(blocks + offsetof(Block, ql) + 64 * half + l);
      const __m128i ql1 = load16(blocks + offsetof(Block, ql) + 64 * half + 32 + l);
      const __m128i qh = load16(blocks + offsetof(Block, qh) + 32 * half + l);
      const std::byte* scales = blocks + offsetof(Block, scales) + 8 * half + quarter % 2;
      float* out = values + i + 128 * half + l;
      store_six_bits<V>(low_nibbles(ql0), _mm_slli_epi16(qh, 4), d, scales[0], out);
      store_six_bits<V>(low_nibbles(ql1), _mm_slli_epi16(qh, 2), d, scales[2], out + 32);
      store_six_bits<V>(high_nibbles(ql0), qh, d, scales[4], out + 64);
      store_six_bits<V>(high_nibbles(ql1), _mm_srli_epi16(qh, 2), d, scales[6], out + 96);
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
