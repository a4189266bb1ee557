// Products of panels (quant/panel.h) with activations: one table of function pointers per instruction set.
//
// Quantized weights meet activations that were quantized to int8 first. One output element is
//
//   y[t][r] = sum over blocks b of 32 columns, ascending, by fma(part, x_scale[t][b], y)
//   part    = sum over the block's weight scales s, ascending, by fma(float(dot_s), scale[r][s], part), the
//   first
//             of them a plain product; Q4_K and Q5_K: float(dot) * scale - min * float(sum of the block's x)
//   dot_s   = integer sum over the scale's columns k of code[r][k] * x[t][k], exact
//
// Every instruction set does these operations in this order, one row per lane, so results are the same bits
// on all of them, whatever the batch, the tile and the thread.
//
// The exception is AMX, with many tokens (PanelTiles): weights and quantized activations, scales included,
// are rounded to bf16, and their products summed in float32. Those are other bits, each factor off by at most
// 2^-8, and which of the two a token gets depends on how many it comes with.
//
// Float weights (F32, F16, BF16) meet float activations: four partial sums per row, column k going to sum k %
// 4 by fma, added as (s0 + s1) + (s2 + s3).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels_cpu/isa.h"
#include "quant/dtype.h"
#include "quant/panel_layout.h"

namespace sluice::cpu {

/// Columns that share one activation scale.
inline constexpr int64_t kActivationBlock = 32;

/// How the kernels see a quantized type.
struct PanelNumerics {
  int64_t group = 32;       // columns that share one weight scale, as the kernels see it: 16 or 32
  int32_t term_factor = 1;  // ActivationView::terms holds this times the sum of a group's activations

  bool operator==(const PanelNumerics&) const = default;
};

/// True for the types whose panels are multiplied with int8 activations: all but F32, F16, BF16.
constexpr bool takes_int8(quant::DType dtype) {
  return dtype != quant::DType::kF32 && dtype != quant::DType::kF16 && dtype != quant::DType::kBF16;
}

/// Codes are made unsigned by an offset, which the terms take back: Q8_0 128, Q6_K 32, Q5_0 16, Q4_0 8, and
/// the e2m1 formats 16. Q4_K's and Q5_K's codes are unsigned, and their minimum wants the plain sum.
constexpr PanelNumerics panel_numerics(quant::DType dtype) {
  switch (dtype) {
    case quant::DType::kNVFP4:
      return {.group = 16, .term_factor = -16};
    case quant::DType::kQ6_K:
      return {.group = 16, .term_factor = -32};
    case quant::DType::kQ8_0:
      return {.group = 32, .term_factor = -128};
    case quant::DType::kMXFP4:
    case quant::DType::kQ5_0:
      return {.group = 32, .term_factor = -16};
    case quant::DType::kQ4_0:
      return {.group = 32, .term_factor = -8};
    default:
      return {};
  }
}

/// Activations quantized to int8 for weights of one type. Non-owning. cols is a multiple of kActivationBlock.
/// Scales and terms of all tokens lie side by side, block after block, because a kernel wants those of a tile
/// of tokens at once.
struct ActivationView {
  const int8_t* codes = nullptr;   // [n_tokens, cols], in [-127, 127]
  const float* scales = nullptr;   // [cols / 32][stride], the first n_tokens of each
  const int32_t* terms = nullptr;  // [cols / group][stride]: term_factor * sum of codes
  int64_t n_tokens = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // at least n_tokens

  [[nodiscard]] ActivationView tokens_from(int64_t begin, int64_t count) const {
    return {codes + begin * cols, scales + begin, terms + begin, count, cols, stride};
  }
};

/// Blocks of kActivationBlock columns.
struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// Products of many tokens by matrix instructions (AMX). Activations are packed first, once for all panels:
/// begin, then for range after range pack and dot of every panel, then end, on one thread.
struct PanelTiles {
  // Of a range, and tokens at a time. Decoding a panel to bf16 costs as much as four tile products, so it
  // must serve many; packed activations then take 256 KiB, and tiles are loaded from L2 nearly as fast as
  // from L1.
  static constexpr int64_t kMostBlocks = 16;
  static constexpr int64_t kMostTokens = 256;

  int64_t least_tokens = 0;  // with fewer, PanelKernels::dot is as fast
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  /// Columns `range` of all tokens into `packed`, packed_size() elements, 64-byte aligned.
  void (*pack)(const BlockRange& range, const ActivationView& x, uint16_t* packed) = nullptr;
  /// As PanelKernels::DotFn, with the activations of `range` packed.
  using DotFn = void (*)(const quant::PanelLayout& layout, const std::byte* panel, const BlockRange& range,
                         const uint16_t* packed, int64_t n_tokens, float* out);
  DotFn dot[quant::kDTypeIdCount] = {};

  static constexpr int64_t packed_size(int64_t blocks, int64_t n_tokens) {
    return blocks * kActivationBlock * ((n_tokens + 15) / 16 * 16);
  }
};

struct PanelKernels {
  Isa isa;
  /// Quantizes one row of `cols` floats, a multiple of 32: scale = max |x| / 127, code = x * (127 / max)
  /// rounded to nearest, ties to even. Blocks whose largest magnitude is below kLeastActivation become zeros.
  /// A NaN or infinity makes the block's scale NaN or infinite, and so every product with it. Scales and
  /// terms are written `stride` apart, as ActivationView wants them.
  struct QuantizedRow {
    int8_t* codes;
    float* scales;
    int32_t* terms;
    int64_t stride;
  };
  void (*quantize)(const float* x, int64_t cols, PanelNumerics numerics, const QuantizedRow& out);

  /// out[t][0..16) = the panel's sixteen rows times token t, formula above, over the columns of `range`;
  /// without the view's second-level scale. A range that does not begin at 0 goes on from what `out` holds,
  /// so that a caller can meet many panels with the same columns while they are in a cache.
  /// `out` [x.n_tokens, 16]. By type; null for types that do not take int8.
  using DotFn = void (*)(const quant::PanelLayout& layout, const std::byte* panel, const BlockRange& range,
                         const ActivationView& x, float* out);
  DotFn dot[quant::kDTypeIdCount];

  /// The same by matrix instructions; null functions where there are none.
  PanelTiles tiles;

  /// The same for F32, F16 and BF16 panels and float activations x [n_tokens, layout.cols] with rows
  /// `x_stride` apart.
  using FloatDotFn = void (*)(const quant::PanelLayout& layout, const std::byte* panel, const float* x,
                              int64_t x_stride, int64_t n_tokens, float* out);
  FloatDotFn float_dot[quant::kDTypeIdCount];
};

/// Smaller activations have reciprocals beyond float32's range.
inline constexpr float kLeastActivation = 0x1p-100F;

/// The table of an instruction set that this CPU supports.
const PanelKernels& panel_kernels_for(Isa isa);

}  // namespace sluice::cpu
