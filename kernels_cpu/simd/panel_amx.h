// Quantized panels times many tokens by AMX tiles in bf16: a chunk of the panel is decoded to bf16 once,
// scales included, and meets every token's activations in bf16. Sums are float32, in tiles, along all columns
// of a chunk.
//
// Why not int8 tiles: every 32 columns (NVFP4: 16) have scales of their own, so sums would leave the tiles
// through memory after each product. Built and measured, that was no faster than the dot product
// instructions (docs/benchmarks.md).
#pragma once

#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/panel_formats.h"
#include "kernels_cpu/simd/panel_lanes_avx512vbmi.h"

namespace sluice::cpu {
namespace {

using AmxLanes = PanelAvx512Vbmi;

/// The operand of ldtilecfg (Intel SDM, volume 1, section 18.2).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

/// Tokens of a tile, and tiles whose sums are under way at once.
inline constexpr int64_t kTileTokens = 16;
inline constexpr int64_t kTiles = 4;

// Tiles 0 to 3 hold sums [16 tokens, 16 rows], 4 and 5 activations [16 tokens, 32 columns], 6 weights [32
// columns, 16 rows] as pairs of columns. The compiler cannot see what tiles read and write, hence "memory".
inline void load_shapes(const TileShapes& shapes) {
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
}
inline void release_tiles() {
  __asm__ volatile("tilerelease" ::: "memory");
}
[[gnu::always_inline]] inline void load_weights(const void* tile) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm6" ::"r"(tile), "r"(int64_t{64}) : "memory");
}

/// What a tile of sums can do, for tile kTile. %c prints an operand's number bare: it becomes part of a name.
template <int64_t kTile>
struct SumTile {
  static constexpr int64_t kRowBytes = 64;
  static constexpr int64_t kActivations = 4 + kTile % 2;  // the tile that they pass through

  static void zero() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile) : "memory"); }
  static void load(const float* p) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(kRowBytes), "i"(kTile) : "memory");
  }
  static void store(float* p) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(kRowBytes), "i"(kTile) : "memory");
  }
  /// Adds activations [16 tokens, 32] times the weights that load_weights() loaded.
  static void add_product(const uint16_t* activations) {
    __asm__ volatile(
        "tileloadd (%0,%1,1), %%tmm%c2\n\ttdpbf16ps %%tmm6, %%tmm%c2, %%tmm%c3" ::"r"(activations),
        "r"(kRowBytes), "i"(kActivations), "i"(kTile)
        : "memory");
  }
};

/// Sixteen floats as bf16 in the upper halves of the lanes, rounded to nearest, half away from zero. A NaN
/// must not have its lower half full.
[[gnu::always_inline]] inline __m512i rounded(__m512 x) {
  return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}
/// Lanes of two bf16: `first` in the lower halves.
[[gnu::always_inline]] inline __m512i bf16_pairs(__m512 first, __m512 second) {
  constexpr int kBlend = 0xCA;  // a ? b : c
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000U)), rounded(second),
                                   _mm512_srli_epi32(rounded(first), 16), kBlend);
}
[[gnu::always_inline]] inline __m512 canonical_nan(__m512 x) {
  return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_ps(__builtin_nanf("")));
}

/// Byte kByte of each lane as the float 256 + byte: it goes into the upper bits of 256's mantissa.
template <int kByte>
[[gnu::always_inline]] inline __m512 byte_plus_256(__m512i words) {
  constexpr unsigned kFrom = 8U * kByte;
  constexpr unsigned kTo = 15;
  const __m512i at = kTo > kFrom ? _mm512_slli_epi32(words, kTo > kFrom ? kTo - kFrom : 0)
                                 : _mm512_srli_epi32(words, kFrom > kTo ? kFrom - kTo : 0);
  constexpr int kAndOr = 0xEA;  // (a & b) | c
  return _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(at, _mm512_set1_epi32(0x7F8000), _mm512_set1_epi32(0x43800000), kAndOr));
}

/// A block in bf16, as load_weights() wants it: line j has columns 2j and 2j + 1 of sixteen rows.
template <class Format, int kOffset>
[[gnu::always_inline]] inline void decode_block(const PanelLanes<AmxLanes>& lanes, int64_t b,
                                                __m512i* lines) {
  Block32<AmxLanes> block;
  Format::load(lanes, b, block);
  __m512 scales[2];
  __m512 shifts[2];  // what takes 256 and the offset, or the minimum, back
#pragma GCC unroll 2
  for (int g = 0; g < Format::kGroups; ++g) {
    scales[g] = canonical_nan(block.scales[g]);
    shifts[g] = _mm512_mul_ps(scales[g], _mm512_set1_ps(-256.0F - kOffset));
    if constexpr (Format::kCodes == Codes::kMinimum) {
      shifts[g] = _mm512_sub_ps(shifts[g], canonical_nan(block.min));
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < 8; ++i) {
    const __m512i w = block.words[i];
    const __m512 scale = scales[i * Format::kGroups / 8];
    const __m512 shift = shifts[i * Format::kGroups / 8];
    lines[2 * i] = bf16_pairs(_mm512_fmadd_ps(byte_plus_256<0>(w), scale, shift),
                              _mm512_fmadd_ps(byte_plus_256<1>(w), scale, shift));
    lines[2 * i + 1] = bf16_pairs(_mm512_fmadd_ps(byte_plus_256<2>(w), scale, shift),
                                  _mm512_fmadd_ps(byte_plus_256<3>(w), scale, shift));
  }
}

/// Up to kTiles tiles of tokens. Where their activations lie: tile after tile, block after block, [16
/// tokens][32 columns]; and their sums: [16 tokens][16 rows] each.
struct TokenTiles {
  const uint16_t* activations;
  int64_t blocks;
  float* sums;

  [[nodiscard]] const uint16_t* tile(int64_t t, int64_t b) const {
    return activations + (t * blocks + b) * kTileTokens * kActivationBlock;
  }
};

/// Decoded blocks times kCount tiles of tokens; `first`: sums begin at zero.
template <int64_t kCount>
void multiply_tiles(const __m512i* lines, const TokenTiles& x, bool first) {
  constexpr int64_t kSums = kTileTokens * quant::kPanelRows;
  first ? SumTile<0>::zero() : SumTile<0>::load(x.sums);
  if constexpr (kCount > 1) first ? SumTile<1>::zero() : SumTile<1>::load(x.sums + kSums);
  if constexpr (kCount > 2) first ? SumTile<2>::zero() : SumTile<2>::load(x.sums + 2 * kSums);
  if constexpr (kCount > 3) first ? SumTile<3>::zero() : SumTile<3>::load(x.sums + 3 * kSums);
  for (int64_t b = 0; b < x.blocks; ++b) {
    load_weights(lines + b * kActivationBlock / 2);
    SumTile<0>::add_product(x.tile(0, b));
    if constexpr (kCount > 1) SumTile<1>::add_product(x.tile(1, b));
    if constexpr (kCount > 2) SumTile<2>::add_product(x.tile(2, b));
    if constexpr (kCount > 3) SumTile<3>::add_product(x.tile(3, b));
  }
  SumTile<0>::store(x.sums);
  if constexpr (kCount > 1) SumTile<1>::store(x.sums + kSums);
  if constexpr (kCount > 2) SumTile<2>::store(x.sums + 2 * kSums);
  if constexpr (kCount > 3) SumTile<3>::store(x.sums + 3 * kSums);
}

inline void multiply_some(int64_t tiles, const __m512i* lines, const TokenTiles& x, bool first) {
  switch (tiles) {
    case 1:
      return multiply_tiles<1>(lines, x, first);
    case 2:
      return multiply_tiles<2>(lines, x, first);
    case 3:
      return multiply_tiles<3>(lines, x, first);
    default:
      return multiply_tiles<kTiles>(lines, x, first);
  }
}

/// All tiles are full.
inline void load_tile_shapes() {
  TileShapes shapes;
  for (int tile = 0; tile < 7; ++tile) {
    shapes.rows[tile] = kTileTokens;
    shapes.row_bytes[tile] = 64;
  }
  load_shapes(shapes);
}

/// Decoded blocks times all tokens. The last tokens, fewer than a tile, have their sums elsewhere meanwhile.
inline void multiply_tokens(const __m512i* lines, const BlockRange& range, const uint16_t* packed,
                            int64_t n_tokens, float* out) {
  const int64_t blocks = range.end - range.begin;
  const bool first = range.begin == 0;
  const int64_t full = n_tokens / kTileTokens;
  for (int64_t t = 0; t < full; t += kTiles) {
    const TokenTiles tiles{packed + t * blocks * kTileTokens * kActivationBlock, blocks,
                           out + t * kTileTokens * quant::kPanelRows};
    multiply_some(full - t < kTiles ? full - t : kTiles, lines, tiles, first);
  }
  const int64_t rest = n_tokens % kTileTokens;
  if (rest > 0) {
    alignas(64) float sums[kTileTokens * quant::kPanelRows] = {};
    float* const target = out + full * kTileTokens * quant::kPanelRows;
    const auto bytes = static_cast<size_t>(rest * quant::kPanelRows) * sizeof(float);
    if (!first) {
      memcpy(sums, target, bytes);
    }
    multiply_tiles<1>(lines, {packed + full * blocks * kTileTokens * kActivationBlock, blocks, sums}, first);
    memcpy(target, sums, bytes);
  }
}

template <class Format, quant::DType kType>
void panel_dot_amx(const quant::PanelLayout& layout, const std::byte* panel, const BlockRange& range,
                   const uint16_t* packed, int64_t n_tokens, float* out) {
  constexpr int kOffset = Format::kCodes == Codes::kMinimum ? 0 : -panel_numerics(kType).term_factor;
  const PanelLanes<AmxLanes> lanes{panel, panel + layout.scales_at, 0};
  __m512i lines[PanelTiles::kMostBlocks * kActivationBlock / 2];
  for (int64_t b = range.begin; b < range.end; ++b) {
    decode_block<Format, kOffset>(lanes, b, lines + (b - range.begin) * kActivationBlock / 2);
  }
  multiply_tokens(lines, range, packed, n_tokens, out);
}

/// Sixteen codes of a token's block as bf16, scale included.
[[gnu::always_inline]] inline __m256i scaled_codes(const int8_t* codes, __m512 scale) {
  const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(wide), scale);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(value), 16));
}

/// PanelTiles::pack. Tokens beyond the last are zeros.
inline void pack_amx(const BlockRange& range, const ActivationView& x, uint16_t* packed) {
  const int64_t blocks = range.end - range.begin;
  for (int64_t t = 0; t < (x.n_tokens + kTileTokens - 1) / kTileTokens * kTileTokens; ++t) {
    uint16_t* out = packed + (t / kTileTokens * blocks * kTileTokens + t % kTileTokens) * kActivationBlock;
    for (int64_t b = range.begin; b < range.end; ++b) {
      auto* const line = reinterpret_cast<__m256i*>(out);
      if (t < x.n_tokens) {
        const int8_t* const codes = x.codes + t * x.cols + b * kActivationBlock;
        const __m512 scale = canonical_nan(_mm512_set1_ps(x.scales[b * x.stride + t]));
        _mm256_store_si256(line, scaled_codes(codes, scale));
        _mm256_store_si256(line + 1, scaled_codes(codes + 16, scale));
      } else {
        _mm256_store_si256(line, _mm256_setzero_si256());
        _mm256_store_si256(line + 1, _mm256_setzero_si256());
      }
      out += kTileTokens * kActivationBlock;
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
