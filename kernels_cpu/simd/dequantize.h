// Decoding of rows on the vector vocabulary V: unquantized types and the formats with one scale per small
// block. The floats are computed by the formulas of quant/<format>.cpp, operation by operation, hence bit for
// bit. Fields are reached by offset, because a row may start at any byte.
#pragma once

#include <immintrin.h>

#include "kernels_cpu/simd/c_headers.h"
#include "quant/base/number.h"
#include "quant/mxfp4.h"
#include "quant/nvfp4.h"
#include "quant/q4_0.h"
#include "quant/q5_0.h"
#include "quant/q8_0.h"

namespace sluice::cpu {
namespace {

inline float load_f16_scale(const std::byte* p) {
  uint16_t bits;
  memcpy(&bits, p, sizeof(bits));
  return _cvtsh_ss(bits);
}

inline __m128i load16(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m128i low_nibbles(__m128i bytes) {
  return _mm_and_si128(bytes, _mm_set1_epi8(0x0F));
}
inline __m128i high_nibbles(__m128i bytes) {
  return low_nibbles(_mm_srli_epi16(bytes, 4));
}

/// out[0..16) = scale * codes, codes signed bytes.
template <class V>
void store_scaled(__m128i codes, typename V::F scale, float* out) {
  V::store(out, V::mul(scale, V::template widen<0>(codes)));
  if constexpr (V::kLanes == 8) {
    V::store(out + 8, V::mul(scale, V::template widen<1>(codes)));
  }
}

template <class V>
void dequantize_f32(const std::byte* blocks, int64_t n, float* values) {
  if (n > 0) {  // memcpy forbids null pointers even for nothing
    memcpy(values, blocks, static_cast<size_t>(n) * sizeof(float));
  }
}

/// Two-byte elements: `load` widens kLanes of them.
template <class V, typename V::F (*load)(const void*)>
void dequantize_halves(const std::byte* blocks, int64_t n, float* values) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    V::store(values + i, load(blocks + 2 * i));
  }
  if (i < n) {
    uint16_t edge[V::kLanes] = {};
    memcpy(edge, blocks + 2 * i, static_cast<size_t>(n - i) * 2);
    V::store_first(values + i, n - i, load(edge));
  }
}

template <class V>
void dequantize_q8_0(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockQ8_0;
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const typename V::F d = V::set1(load_f16_scale(blocks + offsetof(Block, d)));
    const std::byte* q = blocks + offsetof(Block, q);
    store_scaled<V>(load16(q), d, values + i);
    store_scaled<V>(load16(q + 16), d, values + i + 16);
  }
}

template <class V>
void dequantize_q4_0(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockQ4_0;
  const __m128i middle = _mm_set1_epi8(8);
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const typename V::F d = V::set1(load_f16_scale(blocks + offsetof(Block, d)));
    const __m128i q = load16(blocks + offsetof(Block, qs));
    store_scaled<V>(_mm_sub_epi8(low_nibbles(q), middle), d, values + i);
    store_scaled<V>(_mm_sub_epi8(high_nibbles(q), middle), d, values + i + 16);
  }
}

/// Sixteen bytes, 0 or 0x10: bit i of the two bytes b of `pair` (which = 0: bytes 0, 1; 1: bytes 2, 3) in
/// byte i.
template <int kWhich>
__m128i fifth_bits(__m128i word) {
  constexpr char kA = 2 * kWhich;
  constexpr char kB = 2 * kWhich + 1;
  const __m128i spread = _mm_setr_epi8(kA, kA, kA, kA, kA, kA, kA, kA, kB, kB, kB, kB, kB, kB, kB, kB);
  const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201ULL));
  const __m128i chosen = _mm_and_si128(_mm_shuffle_epi8(word, spread), bit);
  return _mm_and_si128(_mm_cmpeq_epi8(chosen, bit), _mm_set1_epi8(0x10));
}

template <class V>
void dequantize_q5_0(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockQ5_0;
  const __m128i middle = _mm_set1_epi8(16);
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const typename V::F d = V::set1(load_f16_scale(blocks + offsetof(Block, d)));
    int32_t high;
    memcpy(&high, blocks + offsetof(Block, qh), sizeof(high));
    const __m128i word = _mm_cvtsi32_si128(high);
    const __m128i q = load16(blocks + offsetof(Block, qs));
    const __m128i first = _mm_or_si128(low_nibbles(q), fifth_bits<0>(word));
    const __m128i second = _mm_or_si128(high_nibbles(q), fifth_bits<1>(word));
    store_scaled<V>(_mm_sub_epi8(first, middle), d, values + i);
    store_scaled<V>(_mm_sub_epi8(second, middle), d, values + i + 16);
  }
}

/// Doubled e2m1 values of sixteen 4-bit codes.
inline __m128i e2m1_doubled(__m128i codes) {
  const auto& t = kE2m1Doubled;
  const __m128i table = _mm_setr_epi8(t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10],
                                      t[11], t[12], t[13], t[14], t[15]);
  return _mm_shuffle_epi8(table, codes);
}

template <class V>
void dequantize_mxfp4(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockMXFP4;
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    const auto e = static_cast<uint8_t>(blocks[offsetof(Block, e)]);
    const typename V::F scale = V::set1(quant::mxfp4_scale(e));
    const __m128i q = load16(blocks + offsetof(Block, qs));
    store_scaled<V>(e2m1_doubled(low_nibbles(q)), scale, values + i);
    store_scaled<V>(e2m1_doubled(high_nibbles(q)), scale, values + i + 16);
  }
}

/// e4m3(bits) / 2 by its low seven bits; 0x7F decodes to 0 (quant/nvfp4.h).
struct HalfScales {
  float of[128];
};

constexpr HalfScales make_half_scales() {
  HalfScales table{};
  for (int bits = 0; bits < 127; ++bits) {
    const int exponent = bits / 8;
    const auto mantissa = static_cast<float>(bits % 8);
    // Steps of 2^-10 below exponent 1 and from there doubling: (8 + mantissa) * 2^(exponent - 1 - 10).
    const auto doublings = static_cast<float>(1 << (exponent > 0 ? exponent - 1 : 0));
    table.of[bits] = (exponent > 0 ? 8.0F + mantissa : mantissa) * doublings / 1024.0F;
  }
  return table;
}

inline constexpr HalfScales kHalfScales = make_half_scales();

template <class V>
void dequantize_nvfp4(const std::byte* blocks, int64_t n, float* values) {
  using Block = quant::BlockNVFP4;
  constexpr int64_t kSub = Block::kElements / Block::kSubBlocks;
  for (int64_t i = 0; i < n; i += Block::kElements, blocks += sizeof(Block)) {
    for (int64_t s = 0; s < Block::kSubBlocks; s += 2) {
      const std::byte* d = blocks + offsetof(Block, d) + s;
      // Sixteen bytes hold two sub-blocks; in each, eight low nibbles come before the eight high ones.
      const __m128i q = load16(blocks + offsetof(Block, qs) + s * kSub / 2);
      const __m128i low = e2m1_doubled(low_nibbles(q));
      const __m128i high = e2m1_doubled(high_nibbles(q));
      float* out = values + i + s * kSub;
      store_scaled<V>(_mm_unpacklo_epi64(low, high),
                      V::set1(kHalfScales.of[static_cast<uint8_t>(d[0]) & 0x7F]), out);
      store_scaled<V>(_mm_unpackhi_epi64(low, high),
                      V::set1(kHalfScales.of[static_cast<uint8_t>(d[1]) & 0x7F]), out + kSub);
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
