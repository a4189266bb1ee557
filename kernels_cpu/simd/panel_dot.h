// Quantized panels times int8 activations, over a format (panel_formats.h) and the lane vocabulary V. The
// order of operations is the contract's (kernels_cpu/panel.h) and no tile or batch changes it.
//
// Few tokens: each block is decoded into registers and met by all of them. Many tokens: a chunk of the panel
// is decoded into L1 once, and every tile of tokens reads it from there.
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

  [[gnu::always_inline]] void load(int64_t b, Block32<V>& out) const {
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
    Format::load(lanes, b, out);
  }
};
template <class V, class Format>
struct FromChunk {
  const DecodedChunk<V, Format>& chunk;
  [[gnu::always_inline]] void load(int64_t b, Block32<V>& out) const { out = chunk.blocks[b - chunk.first]; }
};

/// What a block of columns of kTokens tokens looks like.
template <size_t kTokens>
struct TokenBlock {
  const int8_t* codes[kTokens];
  const float* scales;   // of the tokens, side by side
  const int32_t* terms;  // likewise; those of the next group `stride` later
  int64_t stride;
};

/// The dot products of a block's group of columns with kTokens tokens, word by word, so that as many sums are
/// under way at once: a chain of them would wait for the latency of every product.
template <class V, class Format, size_t kTokens>
[[gnu::always_inline]] inline void group_dots(const Block32<V>& w, int group, const TokenBlock<kTokens>& x,
                                              typename V::I (&sums)[kTokens]) {
  constexpr int kWords = 8 / Format::kGroups;
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    if constexpr (Format::kCodes == Codes::kOffset) {
      sums[t] = V::splat(x.terms[group * x.stride + static_cast<int64_t>(t)]);
    } else if constexpr (Format::kCodes == Codes::kSigned) {
      sums[t] = V::signed_start(x.terms[group * x.stride + static_cast<int64_t>(t)]);
    } else {
      sums[t] = V::splat(0);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kWords; ++i) {
    const typename V::I word = w.words[group * kWords + i];
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const int8_t* const four = x.codes[t] + 4 * (group * kWords + i);
      if constexpr (Format::kCodes == Codes::kSigned) {
        sums[t] = V::dot_signed(sums[t], word, four);
      } else {
        sums[t] = V::dot(sums[t], word, four);
      }
    }
  }
}

/// What a block adds to each token's row, before the activation's scale.
template <class V, class Format, size_t kTokens>
[[gnu::always_inline]] inline void block_parts(const Block32<V>& w, const TokenBlock<kTokens>& x,
                                               typename V::F (&parts)[kTokens]) {
#pragma GCC unroll 2
  for (int g = 0; g < Format::kGroups; ++g) {
    typename V::I sums[kTokens];
    group_dots<V, Format, kTokens>(w, g, x, sums);
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const typename V::F dot = V::to_float(sums[t]);
      if constexpr (Format::kCodes == Codes::kMinimum) {
        parts[t] = V::fms(dot, w.scales[0], V::mul(w.min, V::to_float(V::splat(x.terms[t]))));
      } else {
        parts[t] = g == 0 ? V::mul(dot, w.scales[0]) : V::fma(dot, w.scales[g], parts[t]);
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

/// out[t][lane ..] for tokens [t0, t0 + kTokens).
template <class V, class Format, int kTokens, class Source>
void dot_tokens(const Source& source, const BlockRange& range, const ActivationView& x, int64_t t0,
                float* out) {
  constexpr size_t kT = kTokens;
  TokenBlock<kT> at{.codes = {},
                    .scales = x.scales + range.begin * x.stride + t0,
                    .terms = x.terms + range.begin * Format::kGroups * x.stride + t0,
                    .stride = x.stride};
  typename V::F sum[kT];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    at.codes[t] = x.codes + (t0 + t) * x.cols + range.begin * kActivationBlock;
    sum[t] = range.begin == 0 ? V::zero() : V::load(out + (t0 + t) * quant::kPanelRows);
  }
  for (int64_t b = range.begin; b < range.end; ++b) {
    Block32<V> w;
    source.load(b, w);
    if (kTokens == V::kTokenTile && b % 2 == 0) {
      ask_for_next_tile<kT>(at, x.cols);
    }
    typename V::F parts[kT];
    block_parts<V, Format, kT>(w, at, parts);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = V::fma(parts[t], V::set1(at.scales[t]), sum[t]);
      at.codes[t] += kActivationBlock;
    }
    at.scales += x.stride;
    at.terms += Format::kGroups * x.stride;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    V::store(out + (t0 + t) * quant::kPanelRows, sum[t]);
  }
}

/// Tokens [t0, n_tokens) in tiles of kTokens, then of half as many.
template <class V, class Format, int kTokens, class Source>
void dot_tiles(const Source& source, const BlockRange& range, const ActivationView& x, int64_t t0,
               float* out) {
  for (; t0 + kTokens <= x.n_tokens; t0 += kTokens) {
    dot_tokens<V, Format, kTokens>(source, range, x, t0, out);
  }
  if constexpr (kTokens > 1) {
    if (t0 < x.n_tokens) {
      dot_tiles<V, Format, kTokens / 2>(source, range, x, t0, out);
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
      dot_tiles<V, Format, V::kTokenTile>(FromPanel<V, Format>{lanes, blocks, layout.panel_bytes}, all, x, 0,
                                          out + lane);
      continue;
    }
    DecodedChunk<V, Format> chunk;
    for (int64_t b = all.begin; b < all.end; b += kChunkBlocks) {
      const BlockRange range{b, b + kChunkBlocks < all.end ? b + kChunkBlocks : all.end};
      chunk.decode(lanes, range);
      dot_tiles<V, Format, V::kTokenTile>(FromChunk<V, Format>{chunk}, range, x, 0, out + lane);
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
