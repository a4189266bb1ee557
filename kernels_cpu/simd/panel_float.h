// Float panels times float activations, over the lane vocabulary V: four sums a row, by column modulo four,
// so that four multiplications are under way at once (contract: kernels_cpu/panel.h).
#pragma once

#include "kernels_cpu/panel.h"
#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

inline constexpr int64_t kFloatSums = 4;

/// Column c of V::kLanes rows; `quants` points at the first of them in the panel.
struct PanelF32 {
  template <class V>
  [[gnu::always_inline]] static typename V::F load(const std::byte* quants, int64_t lane, int64_t c) {
    return V::as_float(V::words(quants + (c * quant::kPanelRows + lane) * 4));
  }
};
struct PanelF16 {
  template <class V>
  [[gnu::always_inline]] static typename V::F load(const std::byte* quants, int64_t lane, int64_t c) {
    return V::halves(quants + (c * quant::kPanelRows + lane) * 2);
  }
};
struct PanelBF16 {  // an even column is the low half of its word
  template <class V>
  [[gnu::always_inline]] static typename V::F load(const std::byte* quants, int64_t lane, int64_t c) {
    const typename V::I pair = V::words(quants + (c / 2 * quant::kPanelRows + lane) * 4);
    return V::as_float(c % 2 == 0 ? V::shift_left(pair, 16) : V::bits(pair, 0xFFFF0000U));
  }
};

/// What a float product reads and writes; `panel` of one lane group, out + lane.
struct FloatArgs {
  const std::byte* quants;
  int64_t lane;
  int64_t cols;
  const float* x;
  int64_t x_stride;
  float* out;
};

template <class V, class Format, int kTokens>
void float_tokens(const FloatArgs& args, int64_t t0) {
  constexpr size_t kT = kTokens;
  typename V::F sum[kT][kFloatSums];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kFloatSums; ++j) {
      sum[t][j] = V::zero();
    }
  }
  const float* x = args.x + t0 * args.x_stride;
  int64_t c = 0;
  for (; c + kFloatSums <= args.cols; c += kFloatSums) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kFloatSums; ++j) {
      const typename V::F w = Format::template load<V>(args.quants, args.lane, c + j);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sum[t][j] = V::fma(w, V::set1(x[t * args.x_stride + c + j]), sum[t][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < kFloatSums; ++j) {  // fewer than four columns are left
    if (c + j < args.cols) {
      const typename V::F w = Format::template load<V>(args.quants, args.lane, c + j);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sum[t][j] = V::fma(w, V::set1(x[t * args.x_stride + c + j]), sum[t][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    V::store(args.out + (t0 + t) * quant::kPanelRows,
             V::add(V::add(sum[t][0], sum[t][1]), V::add(sum[t][2], sum[t][3])));
  }
}

template <class V, class Format>
void panel_float_dot(const quant::PanelLayout& layout, const std::byte* panel, const float* x,
                     int64_t x_stride, int64_t n_tokens, float* out) {
  constexpr int kTile = V::kTokenTile >= 8 ? 4 : V::kTokenTile >= 4 ? 2 : 1;  // times four sums
  for (int64_t lane = 0; lane < quant::kPanelRows; lane += V::kLanes) {
    const FloatArgs args{panel, lane, layout.cols, x, x_stride, out + lane};
    int64_t t = 0;
    for (; t + kTile <= n_tokens; t += kTile) {
      float_tokens<V, Format, kTile>(args, t);
    }
    for (; t < n_tokens; ++t) {
      float_tokens<V, Format, 1>(args, t);
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
