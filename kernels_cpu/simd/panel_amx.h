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

inline void load_shapes(const TileShapes& shapes) {
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}
inline void release_tiles() {
  __asm__ volatile("tilerelease" ::: "memory");
}

/// sums [tokens, 16] = activations [tokens, columns of a group] x weights [those columns, 16]. Product kIndex
/// of four: sums go to tile kIndex, the factors to tiles 4 to 7 in turn, so that several products are under
/// way. The compiler cannot see what tiles read and write, hence "memory".
template <int kIndex>
[[gnu::always_inline]] inline void tile_product(const int8_t* activations, int64_t stride,
                                                const void* weights, void* sums) {
  const int64_t line = 64;
  if constexpr (kIndex == 0) {
    __asm__ volatile(
        "tilezero %%tmm0\n\ttileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%2,%4,1), %%tmm6\n\t"
        "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\ttilestored %%tmm0, (%3,%4,1)" ::"r"(activations),
        "r"(stride), "r"(weights), "r"(sums), "r"(line)
        : "memory");
  } else if constexpr (kIndex == 1) {
    __asm__ volatile(
        "tilezero %%tmm1\n\ttileloadd (%0,%1,1), %%tmm5\n\ttileloadd (%2,%4,1), %%tmm7\n\t"
        "tdpbssd %%tmm7, %%tmm5, %%tmm1\n\ttilestored %%tmm1, (%3,%4,1)" ::"r"(activations),
        "r"(stride), "r"(weights), "r"(sums), "r"(line)
        : "memory");
  } else if constexpr (kIndex == 2) {
    __asm__ volatile(
        "tilezero %%tmm2\n\ttileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%2,%4,1), %%tmm6\n\t"
        "tdpbssd %%tmm6, %%tmm4, %%tmm2\n\ttilestored %%tmm2, (%3,%4,1)" ::"r"(activations),
        "r"(stride), "r"(weights), "r"(sums), "r"(line)
        : "memory");
  } else {
    __asm__ volatile(
        "tilezero %%tmm3\n\ttileloadd (%0,%1,1), %%tmm5\n\ttileloadd (%2,%4,1), %%tmm7\n\t"
        "tdpbssd %%tmm7, %%tmm5, %%tmm3\n\ttilestored %%tmm3, (%3,%4,1)" ::"r"(activations),
        "r"(stride), "r"(weights), "r"(sums), "r"(line)
        : "memory");
  }
}

/// Tokens of a full tile.
inline constexpr int64_t kTileTokens = 16;
/// Blocks of a decoded chunk.
inline constexpr int64_t kTileBlocks = 32;
/// Blocks whose products are begun before the sums of as many others are read: what a tile has stored can be
/// read some time later only.
template <class Format>
inline constexpr int64_t kStepBlocks = 4 / Format::kGroups;

/// What the float operations of a block need.
struct BlockScales {
  __m512 scales[2];
  __m512 min;  // Codes::kMinimum only
};

/// Blocks of a panel as signed codes.
template <class Format>
struct SignedChunk {
  alignas(64) __m512i words[kTileBlocks][8];
  BlockScales scales[kTileBlocks];

  /// Unsigned codes exceed the signed ones by `offset`.
  void decode(const PanelLanes<PanelAmx>& lanes, const BlockRange& range, int32_t offset) {
    const __m512i offsets = _mm512_set1_epi8(static_cast<char>(offset));
    for (int64_t b = range.begin; b < range.end; ++b) {
      Block32<PanelAmx> block;
      Format::load(lanes, b, block);
      __m512i* const out = words[b - range.begin];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        out[i] = Format::kCodes == Codes::kOffset ? _mm512_sub_epi8(block.words[i], offsets) : block.words[i];
      }
      scales[b - range.begin] = {{block.scales[0], block.scales[Format::kGroups - 1]}, block.min};
    }
  }
};

/// Sums of the groups of a block, for a tile of tokens.
template <class Format>
struct alignas(64) TileSums {
  int32_t values[Format::kGroups][kTileTokens][quant::kPanelRows];
};
template <class Format>
struct StepSums {
  TileSums<Format> blocks[kStepBlocks<Format>];
};

/// Up to sixteen tokens; scales and terms of sixteen can be read, whatever they are.
struct TokenTile {
  const int8_t* codes;
  int64_t codes_stride;
  const float* scales;
  const int32_t* terms;
  int64_t stride;  // of scales and terms, from block to block
};

/// The products of a chunk's blocks [first, first + kStepBlocks), as far as there are.
template <class Format>
[[gnu::always_inline]] inline void multiply_step(const SignedChunk<Format>& chunk, int64_t first,
                                                 int64_t blocks, const TokenTile& x, StepSums<Format>& sums) {
  const int8_t* const codes = x.codes + first * kActivationBlock;
  if constexpr (Format::kGroups == 2) {
    if (first < blocks) {
      tile_product<0>(codes, x.codes_stride, chunk.words[first], sums.blocks[0].values[0]);
      tile_product<1>(codes + 16, x.codes_stride, chunk.words[first] + 4, sums.blocks[0].values[1]);
    }
    if (first + 1 < blocks) {
      tile_product<2>(codes + 32, x.codes_stride, chunk.words[first + 1], sums.blocks[1].values[0]);
      tile_product<3>(codes + 48, x.codes_stride, chunk.words[first + 1] + 4, sums.blocks[1].values[1]);
    }
  } else {
    if (first < blocks) {
      tile_product<0>(codes, x.codes_stride, chunk.words[first], sums.blocks[0].values[0]);
    }
    if (first + 1 < blocks) {
      tile_product<1>(codes + 32, x.codes_stride, chunk.words[first + 1], sums.blocks[1].values[0]);
    }
    if (first + 2 < blocks) {
      tile_product<2>(codes + 64, x.codes_stride, chunk.words[first + 2], sums.blocks[2].values[0]);
    }
    if (first + 3 < blocks) {
      tile_product<3>(codes + 96, x.codes_stride, chunk.words[first + 3], sums.blocks[3].values[0]);
    }
  }
}

/// What the block adds to token t's row, before the activation's scale.
template <class Format>
[[gnu::always_inline]] inline __m512 tile_part(const BlockScales& w, const TileSums<Format>& sums,
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
[[gnu::always_inline]] inline void add_block(const BlockScales& w, const TileSums<Format>& sums,
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

/// out[t] for the first `n` <= kTokens tokens. The tiles' shapes have n rows.
template <class Format, size_t kTokens>
void amx_tokens(const SignedChunk<Format>& chunk, const BlockRange& range, const TokenTile& x, size_t n,
                float* out) {
  constexpr auto kTokenIndices = kTokensOf<kTokens>;
  static_assert(kTokens == 8 || kTokens == kTileTokens);
  StepSums<Format> sums[2];
  __m512 y[kTokens];
  load_rows(out, range.begin == 0 ? 0 : n, y, kTokenIndices);
  const int64_t blocks = range.end - range.begin;
  multiply_step<Format>(chunk, 0, blocks, x, sums[0]);
  for (int64_t step = 0; step < blocks; step += kStepBlocks<Format>) {
    const int64_t parity = step / kStepBlocks<Format> % 2;
    multiply_step<Format>(chunk, step + kStepBlocks<Format>, blocks, x, sums[1 - parity]);
    const int64_t end = step + kStepBlocks<Format> < blocks ? step + kStepBlocks<Format> : blocks;
    for (int64_t b = step; b < end; ++b) {
      add_block<Format>(chunk.scales[b], sums[parity].blocks[b - step], x.scales + b * x.stride,
                        x.terms + b * x.stride, y, kTokenIndices);
    }
  }
  store_rows(y, n, out, kTokenIndices);
}

/// Scales and terms of fewer than sixteen tokens, filled up to sixteen.
template <class Format>
struct PaddedScales {
  float scales[kTileBlocks][kTileTokens];
  int32_t terms[kTileBlocks][kTileTokens];  // Codes::kMinimum only

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
  constexpr int64_t kColumns = kActivationBlock / Format::kGroups;
  TileShapes shapes;
  const auto set = [&shapes](int tile, int64_t rows, int64_t row_bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  };
  for (int i = 0; i < 4; ++i) {
    set(i, tokens, 64);
  }
  for (int i = 0; i < 2; ++i) {
    set(4 + i, tokens, kColumns);
    set(6 + i, kColumns / 4, 64);
  }
  load_shapes(shapes);
}

/// A chunk of a panel and all tokens.
template <class Format>
void amx_chunk(const SignedChunk<Format>& chunk, const BlockRange& range, const ActivationView& x,
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
  SignedChunk<Format> chunk;
  for (int64_t b = all.begin; b < all.end; b += kTileBlocks) {
    const BlockRange range{b, b + kTileBlocks < all.end ? b + kTileBlocks : all.end};
    chunk.decode(lanes, range, -panel_numerics(kType).term_factor);
    amx_chunk(chunk, range, x, out);
  }
  release_tiles();
}

}  // namespace
}  // namespace sluice::cpu
