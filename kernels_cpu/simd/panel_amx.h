// Quantized panels times int8 activations by AMX tiles, for many tokens. The integer sums are those of
// panel_dot.h, exact, and the float operations come in its order, so the results are the same bits.
//
// A tile product is [16 tokens, a group of 16 or 32 columns] x [those columns, 16 rows]. The second factor is
// how the words of a panel lie (quant/panel.h); the first is how activations lie. The sums leave the tile
// through memory: every group has its own scales, which no tile instruction knows.
#pragma once

#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/panel_dot.h"
#include "kernels_cpu/simd/panel_formats.h"
#include "kernels_cpu/simd/panel_lanes_avx512vnni.h"

namespace sluice::cpu {
namespace {

/// The vocabulary to decode with: tiles multiply signed bytes, so codes stay or become signed.
struct PanelAmx : PanelAvx512Vnni {
  static I signed_codes(I words) { return words; }
};

/// The operand of ldtilecfg (Intel SDM, volume 1, section 18.2).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 and 1 take sums, 2 and 3 activations, 4 and 5 weights: one of each for each group of columns. The
// wrappers say that they touch memory, which the compiler cannot see.
inline void load_shapes(const TileShapes& shapes) {
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}
inline void release_tiles() {
  __asm__ volatile("tilerelease" ::: "memory");
}
template <int kGroup>
[[gnu::always_inline]] inline void load_activations(const int8_t* at, int64_t stride) {
  if constexpr (kGroup == 0) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" ::"r"(at), "r"(stride) : "memory");
  } else {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm3" ::"r"(at), "r"(stride) : "memory");
  }
}
template <int kGroup>
[[gnu::always_inline]] inline void multiply_weights(const void* words, void* sums) {
  if constexpr (kGroup == 0) {
    __asm__ volatile(
        "tilezero %%tmm0\n\ttileloadd (%0,%2,1), %%tmm4\n\ttdpbssd %%tmm4, %%tmm2, %%tmm0\n\t"
        "tilestored %%tmm0, (%1,%2,1)" ::"r"(words),
        "r"(sums), "r"(int64_t{64})
        : "memory");
  } else {
    __asm__ volatile(
        "tilezero %%tmm1\n\ttileloadd (%0,%2,1), %%tmm5\n\ttdpbssd %%tmm5, %%tmm3, %%tmm1\n\t"
        "tilestored %%tmm1, (%1,%2,1)" ::"r"(words),
        "r"(sums), "r"(int64_t{64})
        : "memory");
  }
}

/// Tokens of a full tile.
inline constexpr int64_t kTileTokens = 16;

/// Sums of a block's groups for a tile of tokens.
template <class Format>
struct alignas(64) TileSums {
  int32_t values[Format::kGroups][kTileTokens][quant::kPanelRows];
};

/// Up to sixteen tokens from t0 on; scales and terms of sixteen can be read, whatever they are.
struct TokenTile {
  const int8_t* codes;
  int64_t codes_stride;
  const float* scales;
  const int32_t* terms;
  int64_t stride;  // of scales and terms, from block to block
};

template <class Format>
[[gnu::always_inline]] inline void tile_sums(const Block32<PanelAmx>& w, const int8_t* codes, int64_t stride,
                                             TileSums<Format>& sums) {
  load_activations<0>(codes, stride);
  multiply_weights<0>(w.words, sums.values[0]);
  if constexpr (Format::kGroups == 2) {
    load_activations<1>(codes + 16, stride);
    multiply_weights<1>(w.words + 4, sums.values[1]);
  }
}

/// What the block adds to token t's row, before the activation's scale.
template <class Format>
[[gnu::always_inline]] inline __m512 tile_part(const Block32<PanelAmx>& w, const TileSums<Format>& sums,
                                               const int32_t* terms, size_t t) {
  using V = PanelAmx;
  const __m512 dot = V::to_float(_mm512_load_si512(sums.values[0][t]));
  if constexpr (Format::kCodes == Codes::kMinimum) {
    return V::fms(dot, w.scales[0], V::mul(w.min, V::to_float(V::splat(terms[t]))));
  } else if constexpr (Format::kGroups == 2) {
    const __m512 second = V::to_float(_mm512_load_si512(sums.values[1][t]));
    return V::fma(second, w.scales[1], V::mul(dot, w.scales[0]));
  } else {
    return V::mul(dot, w.scales[0]);
  }
}

// Folds over the tokens and no loops: g++ 12 would keep the array of a loop of sixteen in memory.
template <size_t... kT>
struct Tokens {};
template <size_t kTokens>
inline constexpr Tokens<0, 1, 2, 3, 4, 5, 6, 7> kTokensOf{};
template <>
inline constexpr Tokens<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> kTokensOf<16>{};

/// y[t] += what the block adds.
template <class Format, size_t... kT>
[[gnu::always_inline]] inline void add_block(const Block32<PanelAmx>& w, const TileSums<Format>& sums,
                                             const float* scales, const int32_t* terms,
                                             __m512 (&y)[sizeof...(kT)], Tokens<kT...> /*tokens*/) {
  using V = PanelAmx;
  ((y[kT] = V::fma(tile_part<Format>(w, sums, terms, kT), V::set1(scales[kT]), y[kT])), ...);
}
/// Rows of y and of out, for the first n tokens.
template <size_t... kT>
[[gnu::always_inline]] inline void load_rows(const float* out, size_t n, __m512 (&y)[sizeof...(kT)],
                                             Tokens<kT...> /*tokens*/) {
  ((y[kT] = kT < n ? PanelAmx::load(out + kT * quant::kPanelRows) : PanelAmx::zero()), ...);
}
template <size_t... kT>
[[gnu::always_inline]] inline void store_rows(const __m512 (&y)[sizeof...(kT)], size_t n, float* out,
                                              Tokens<kT...> /*tokens*/) {
  ((kT < n ? PanelAmx::store(out + kT * quant::kPanelRows, y[kT]) : void()), ...);
}

/// out[t] for the first `n` <= kTokens tokens. The tiles' shapes have n rows. Two blocks are under way: what
/// a tile has stored can be read some time later only.
template <class Format, size_t kTokens>
void amx_tokens(const DecodedChunk<PanelAmx, Format>& chunk, const BlockRange& range, const TokenTile& x,
                size_t n, float* out) {
  constexpr auto kTokenIndices = kTokensOf<kTokens>;
  static_assert(kTokens == 8 || kTokens == kTileTokens);
  TileSums<Format> sums[2];
  __m512 y[kTokens];
  load_rows(out, range.begin == 0 ? 0 : n, y, kTokenIndices);
  const int64_t blocks = range.end - range.begin;
  tile_sums<Format>(chunk.blocks[0], x.codes, x.codes_stride, sums[0]);
  for (int64_t b = 0; b < blocks; ++b) {
    if (b + 1 < blocks) {
      tile_sums<Format>(chunk.blocks[b + 1], x.codes + (b + 1) * kActivationBlock, x.codes_stride,
                        sums[(b + 1) % 2]);
    }
    add_block<Format>(chunk.blocks[b], sums[b % 2], x.scales + b * x.stride, x.terms + b * x.stride, y,
                      kTokenIndices);
  }
  store_rows(y, n, out, kTokenIndices);
}

/// Scales and terms of fewer than sixteen tokens, filled up to sixteen.
template <class Format>
struct PaddedScales {
  float scales[kChunkBlocks][kTileTokens];
  int32_t terms[kChunkBlocks][kTileTokens];  // Codes::kMinimum only

  void copy(const BlockRange& range, const ActivationView& x, int64_t t0) {
    for (int64_t b = range.begin; b < range.end; ++b) {
      for (int64_t i = 0; i < kTileTokens; ++i) {
        const int64_t at = b * x.stride + t0 + i;
        scales[b - range.begin][i] = t0 + i < x.n_tokens ? x.scales[at] : 0.0F;
        if constexpr (Format::kCodes == Codes::kMinimum) {
          terms[b - range.begin][i] = t0 + i < x.n_tokens ? x.terms[at] : 0;
        }
      }
    }
  }
};

/// For tiles of so many tokens.
template <class Format>
void load_tile_shapes(int64_t tokens) {
  TileShapes shapes;
  const auto set = [&shapes](int tile, int64_t rows, int64_t row_bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  };
  for (int g = 0; g < Format::kGroups; ++g) {
    set(g, tokens, 64);
    set(2 + g, tokens, kActivationBlock / Format::kGroups);
    set(4 + g, kActivationBlock / Format::kGroups / 4, 64);
  }
  load_shapes(shapes);
}

/// Decodes a chunk to signed codes; `offset` is what unsigned ones exceed them by.
template <class Format>
void decode_signed(const PanelLanes<PanelAmx>& lanes, const BlockRange& range, __m512i offset,
                   DecodedChunk<PanelAmx, Format>& chunk) {
  chunk.decode(lanes, range);
  if constexpr (Format::kCodes == Codes::kOffset) {
    for (int64_t b = 0; b < range.end - range.begin; ++b) {
#pragma GCC unroll 8
      for (__m512i& word : chunk.blocks[b].words) {
        word = _mm512_sub_epi8(word, offset);
      }
    }
  }
}

/// A chunk of a panel and all tokens.
template <class Format>
void amx_chunk(const DecodedChunk<PanelAmx, Format>& chunk, const BlockRange& range, const ActivationView& x,
               float* out) {
  constexpr size_t kFull = kTileTokens;
  const int64_t full = x.n_tokens / kTileTokens * kTileTokens;
  const int64_t at = range.begin * x.stride;
  const int8_t* const codes = x.codes + range.begin * kActivationBlock;
  if (full > 0) {
    load_tile_shapes<Format>(kTileTokens);
  }
  for (int64_t t = 0; t < full; t += kTileTokens) {
    const TokenTile tile{codes + t * x.cols, x.cols, x.scales + at + t, x.terms + at + t, x.stride};
    amx_tokens<Format, kFull>(chunk, range, tile, kFull, out + t * quant::kPanelRows);
  }
  const int64_t rest = x.n_tokens - full;
  if (rest > 0) {
    load_tile_shapes<Format>(rest);
    PaddedScales<Format> padded;
    padded.copy(range, x, full);
    const TokenTile tile{codes + full * x.cols, x.cols, padded.scales[0], padded.terms[0], kTileTokens};
    float* const target = out + full * quant::kPanelRows;
    const auto n = static_cast<size_t>(rest);
    n <= kFull / 2 ? amx_tokens<Format, kFull / 2>(chunk, range, tile, n, target)
                   : amx_tokens<Format, kFull>(chunk, range, tile, n, target);
  }
}

/// Fewer tokens than this go by dot product instructions. Chosen by measuring.
inline constexpr int64_t kLeastTileTokens = 4;

template <class Format, quant::DType kType>
void panel_dot_amx(const quant::PanelLayout& layout, const std::byte* panel, const BlockRange& all,
                   const ActivationView& x, float* out) {
  if (x.n_tokens < kLeastTileTokens || all.begin == all.end) {
    kAvx512VnniPanelKernels.dot[static_cast<size_t>(kType)](layout, panel, all, x, out);
    return;
  }
  const PanelLanes<PanelAmx> lanes{panel, panel + layout.scales_at, 0};
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(-panel_numerics(kType).term_factor));
  DecodedChunk<PanelAmx, Format> chunk;
  for (int64_t b = all.begin; b < all.end; b += kChunkBlocks) {
    const BlockRange range{b, b + kChunkBlocks < all.end ? b + kChunkBlocks : all.end};
    decode_signed(lanes, range, offset, chunk);
    amx_chunk(chunk, range, x, out);
  }
  release_tiles();
}

}  // namespace
}  // namespace sluice::cpu
