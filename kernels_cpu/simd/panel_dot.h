// Quantized panels times int8 activations, over a format (panel_formats.h) and the lane vocabulary V. The
// order of operations is the contract's (kernels_cpu/panel.h) and no tile or batch changes it.
//
// Few tokens: each block is decoded into registers and met by all of them. Many tokens: a chunk of the panel
// is decoded into L1 once, and every tile of tokens reads it from there; where the vocabulary can, a chunk of
// two panels, so that four bytes of a token are loaded once for both.
#pragma once

#include "kernels_cpu/panel.h"
#include "kernels_cpu/simd/c_headers.h"
#include "kernels_cpu/simd/panel_formats.h"

namespace sluice::cpu {
namespace {

/// Blocks of a decoded chunk: 8 KiB of codes for sixteen lanes, so that two threads of a core find theirs and
/// the activations of a tile of tokens in L1. Chosen.
inline constexpr int64_t kChunkBlocks = 16;

/// A chunk of decoded blocks, `first` the first one.
template <class V, class Format>
struct DecodedChunk {
  alignas(64) Block32<V> blocks[kChunkBlocks];
  int64_t first = 0;

  void decode(const PanelLanes<V>& lanes, const BlockRange& range) {
    first = range.begin;
    for (int64_t b = range.begin; b < range.end; ++b) {
      Format::load(lanes, b, blocks[b - first]);
    }
  }
};

/// How far ahead of the block at work its memory is asked for, in bytes of quants: into L2, because L1 cannot
/// wait for so many lines at a time, and from there into L1. Chosen by measuring, on one core: farther for
/// formats that take more work per byte.
template <class Format>
inline constexpr int64_t kPrefetchBytes = Format::kQuantBytes < 512 ? 10240 : 4096;
inline constexpr int64_t kNearBytes = 2048;

/// The two sources of blocks.
template <class V, class Format>
struct FromPanel {
  const PanelLanes<V>& lanes;
  int64_t blocks;
  int64_t panel_bytes;

  /// Block b, in `room`.
  [[gnu::always_inline]] const Block32<V>& block(int64_t b, Block32<V>& room) const {
    if (lanes.lane == 0) {  // later lanes find it in the cache
      // Towards the end it is the next panel's beginning: panels follow each other in memory.
      const int64_t ahead = b + kPrefetchBytes<Format> / Format::kQuantBytes;
      const bool next = ahead >= blocks;
      const std::byte* const quants = lanes.quants + ahead * Format::kQuantBytes +
                                      (next ? panel_bytes - blocks * Format::kQuantBytes : 0);
      const std::byte* const near = lanes.quants + b * Format::kQuantBytes + kNearBytes;
#pragma GCC unroll 8
      for (int64_t i = 0; i < Format::kQuantBytes; i += 64) {
        __builtin_prefetch(quants + i, 0, 2);
      }
      __builtin_prefetch(lanes.scales + ahead * Format::kScaleBytes +
                         (next ? panel_bytes - blocks * Format::kScaleBytes : 0));
#pragma GCC unroll 8
      for (int64_t i = 0; i < Format::kQuantBytes; i += 64) {
        __builtin_prefetch(near + i);
      }
    }
    Format::load(lanes, b, room);
    return room;
  }
};
template <class V, class Format>
struct FromChunk {
  const DecodedChunk<V, Format>& chunk;
  [[gnu::always_inline]] const Block32<V>& block(int64_t b, Block32<V>& /*room*/) const {
    return chunk.blocks[b - chunk.first];
  }
};

/// What a block of columns of kTokens tokens looks like.
template <size_t kTokens>
struct TokenBlock {
  const int8_t* codes[kTokens];
  const float* scales;   // of the tokens, side by side
  const int32_t* terms;  // likewise; those of the next group `stride` later
  int64_t stride;
};

/// Four codes of a token as V::dot() takes them: where they lie, for one product, or loaded, for several.
template <class V, size_t kPanels>
[[gnu::always_inline]] inline auto four_of(const int8_t* codes) {
  if constexpr (kPanels == 1) {
    return codes;
  } else {
    return V::splat4(codes);
  }
}

/// The same block of kPanels panels.
template <class V, size_t kPanels>
struct PanelBlocks {
  const Block32<V>* of[kPanels];
};

/// The dot products of a block's group of columns with kTokens tokens, word by word, so that as many sums are
/// under way at once: a chain of them would wait for the latency of every product.
template <class V, class Format, size_t kPanels, size_t kTokens>
[[gnu::always_inline]] inline void group_dots(const PanelBlocks<V, kPanels>& w, int group,
                                              const TokenBlock<kTokens>& x,
                                              typename V::I (&sums)[kPanels][kTokens]) {
  constexpr int kWords = 8 / Format::kGroups;
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    const int32_t term =
        Format::kCodes == Codes::kMinimum ? 0 : x.terms[group * x.stride + static_cast<int64_t>(t)];
    const typename V::I start = Format::kCodes == Codes::kSigned ? V::signed_start(term) : V::splat(term);
#pragma GCC unroll 2
    for (size_t p = 0; p < kPanels; ++p) {
      sums[p][t] = start;
    }
  }
#pragma GCC unroll 8
  for (int i = group * kWords; i < (group + 1) * kWords; ++i) {
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const auto four = four_of<V, kPanels>(x.codes[t] + 4 * i);
#pragma GCC unroll 2
      for (size_t p = 0; p < kPanels; ++p) {
        const typename V::I word = w.of[p]->words[i];
        sums[p][t] = Format::kCodes == Codes::kSigned ? V::dot_signed(sums[p][t], word, four)
                                                      : V::dot(sums[p][t], word, four);
      }
    }
  }
}

/// What a block adds to each token's row, before the activation's scale.
template <class V, class Format, size_t kPanels, size_t kTokens>
[[gnu::always_inline]] inline void block_parts(const PanelBlocks<V, kPanels>& w, const TokenBlock<kTokens>& x,
                                               typename V::F (&parts)[kPanels][kTokens]) {
#pragma GCC unroll 2
  for (int g = 0; g < Format::kGroups; ++g) {
    typename V::I sums[kPanels][kTokens];
    group_dots<V, Format, kPanels, kTokens>(w, g, x, sums);
#pragma GCC unroll 2
    for (size_t p = 0; p < kPanels; ++p) {
      const Block32<V>& block = *w.of[p];
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t) {
        const typename V::F dot = V::to_float(sums[p][t]);
        if constexpr (Format::kCodes == Codes::kMinimum) {
          parts[p][t] = V::fms(dot, block.scales[0], V::mul(block.min, V::to_float(V::splat(x.terms[t]))));
        } else {
          parts[p][t] = g == 0 ? V::mul(dot, block.scales[0]) : V::fma(dot, block.scales[g], parts[p][t]);
        }
      }
    }
  }
}

/// The codes of as many tokens more, two blocks of each: a cache line that would else come from L2 late.
template <size_t kTokens>
[[gnu::always_inline]] inline void ask_for_next_tile(const TokenBlock<kTokens>& at, int64_t cols) {
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    __builtin_prefetch(at.codes[t] + static_cast<int64_t>(kTokens) * cols);
  }
}

/// Where the rows of kPanels panels go: out[p][t][0 .. V::kLanes) of token t.
template <size_t kPanels>
struct PanelRows {
  float* of[kPanels];
};

/// Rows of kPanels panels for tokens [t0, t0 + kTokens).
template <class V, class Format, size_t kTokens, class Source, size_t kPanels>
void dot_tokens(const Source (&sources)[kPanels], const BlockRange& range, const ActivationView& x,
                int64_t t0, const PanelRows<kPanels>& out) {
  TokenBlock<kTokens> at{.codes = {},
                         .scales = x.scales + range.begin * x.stride + t0,
                         .terms = x.terms + range.begin * Format::kGroups * x.stride + t0,
                         .stride = x.stride};
  const auto row = [&](size_t p, size_t t) {
    return out.of[p] + (t0 + static_cast<int64_t>(t)) * quant::kPanelRows;
  };
  typename V::F sum[kPanels][kTokens];
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    at.codes[t] = x.codes + (t0 + static_cast<int64_t>(t)) * x.cols + range.begin * kActivationBlock;
#pragma GCC unroll 2
    for (size_t p = 0; p < kPanels; ++p) {
      sum[p][t] = range.begin == 0 ? V::zero() : V::load(row(p, t));
    }
  }
  for (int64_t b = range.begin; b < range.end; ++b) {
    Block32<V> room[kPanels];
    PanelBlocks<V, kPanels> w;
#pragma GCC unroll 2
    for (size_t p = 0; p < kPanels; ++p) {
      w.of[p] = &sources[p].block(b, room[p]);
    }
    if (kTokens * kPanels == static_cast<size_t>(V::kTokenTile) && b % 2 == 0) {
      ask_for_next_tile<kTokens>(at, x.cols);
    }
    typename V::F parts[kPanels][kTokens];
    block_parts<V, Format, kPanels, kTokens>(w, at, parts);
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const typename V::F scale = V::set1(at.scales[t]);
#pragma GCC unroll 2
      for (size_t p = 0; p < kPanels; ++p) {
        sum[p][t] = V::fma(parts[p][t], scale, sum[p][t]);
      }
      at.codes[t] += kActivationBlock;
    }
    at.scales += x.stride;
    at.terms += Format::kGroups * x.stride;
  }
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (size_t p = 0; p < kPanels; ++p) {
      V::store(row(p, t), sum[p][t]);
    }
  }
}

/// Tokens [t0, n_tokens) in tiles of kTokens, then of half as many.
template <class V, class Format, size_t kTokens, class Source, size_t kPanels>
void dot_tiles(const Source (&sources)[kPanels], const BlockRange& range, const ActivationView& x, int64_t t0,
               const PanelRows<kPanels>& out) {
  constexpr auto kStep = static_cast<int64_t>(kTokens);
  for (; t0 + kStep <= x.n_tokens; t0 += kStep) {
    dot_tokens<V, Format, kTokens>(sources, range, x, t0, out);
  }
  if constexpr (kTokens > 1) {
    if (t0 < x.n_tokens) {
      dot_tiles<V, Format, kTokens / 2>(sources, range, x, t0, out);
    }
  }
}

template <class V, class Format>
void panel_dot(const quant::PanelLayout& layout, const std::byte* panel, const BlockRange& all,
               const ActivationView& x, float* out) {
  const int64_t blocks = layout.cols / kActivationBlock;
  for (int64_t lane = 0; lane < quant::kPanelRows; lane += V::kLanes) {
    const PanelLanes<V> lanes{panel, panel + layout.scales_at, lane};
    if (x.n_tokens <= V::kTokenTile || all.begin == all.end) {
      const FromPanel<V, Format> source[] = {{lanes, blocks, layout.panel_bytes}};
      dot_tiles<V, Format, V::kTokenTile>(source, all, x, 0, PanelRows<1>{{out + lane}});
      continue;
    }
    DecodedChunk<V, Format> chunk;
    for (int64_t b = all.begin; b < all.end; b += kChunkBlocks) {
      const BlockRange range{b, b + kChunkBlocks < all.end ? b + kChunkBlocks : all.end};
      chunk.decode(lanes, range);
      const FromChunk<V, Format> source[] = {{chunk}};
      dot_tiles<V, Format, V::kTokenTile>(source, range, x, 0, PanelRows<1>{{out + lane}});
    }
  }
}

/// Two panels of a vocabulary as wide as a panel, with more tokens than a tile.
template <class V, class Format>
void panel_pair_dot(const quant::PanelLayout& layout, const PanelPair& panels, const BlockRange& all,
                    const ActivationView& x) {
  static_assert(V::kLanes == quant::kPanelRows);
  const PanelLanes<V> first{panels.first, panels.first + layout.scales_at, 0};
  const PanelLanes<V> second{panels.second, panels.second + layout.scales_at, 0};
  DecodedChunk<V, Format> chunks[2];
  const FromChunk<V, Format> sources[] = {{chunks[0]}, {chunks[1]}};
  for (int64_t b = all.begin; b < all.end; b += kChunkBlocks) {
    const BlockRange range{b, b + kChunkBlocks < all.end ? b + kChunkBlocks : all.end};
    chunks[0].decode(first, range);
    chunks[1].decode(second, range);
    dot_tiles<V, Format, V::kTokenTile / 2>(sources, range, x, 0,
                                            PanelRows<2>{{panels.first_out, panels.second_out}});
  }
}

}  // namespace
}  // namespace sluice::cpu
