// The primitive kernels of one instruction set: a plain table of pure serial functions. They do not allocate,
// start threads, log or throw; the caller splits ranges over threads. Activations are float32 throughout.
//
// Determinism contract: every output element of every kernel depends only on its own inputs and on the ISA,
// never on how many rows, tokens or columns the call covers, so results do not change with the batch or the
// thread count.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels_cpu/isa.h"
#include "quant/dtype.h"

namespace sluice::cpu {

/// values[0..n) decoded from n consecutive elements; n is a multiple of the type's block size.
/// No alignment is required of either.
using DequantizeRowFn = void (*)(const std::byte* blocks, int64_t n, float* values);

/// Shapes of a float32 matrix product. Leading dimensions count elements. c must not overlap a or b.
struct GemmArgs {
  const float* a;  // [m, k], gemm_tn_add: [k, m]; row stride lda
  int64_t lda;
  const float* b;  // [k, n], gemm_nt: [n, k]; row stride ldb
  int64_t ldb;
  float* c;  // [m, n], row stride ldc
  int64_t ldc;
  int64_t m;
  int64_t n;
  int64_t k;
};

/// One flash-attention step over a tile of scores: a row per key, a column per head.
struct SoftmaxTile {
  float* scores;  // [n, heads], row stride `stride`; in: raw scores; out: exp(scale * score - new_max)
  int64_t stride;
  int64_t n;  // >= 1
  int64_t heads;
  float scale;
  float* running_max;  // [heads] in and out; -infinity before the first tile
  float* running_sum;  // [heads] in and out; 0 before the first tile
  float* rescale;      // [heads] out: what earlier accumulators must be multiplied by (0 on the first tile)
};

struct Kernels {
  Isa isa;

  /// Indexed by DType; null where the type is not a weight type. Equals quant::dequantize_row bit for bit.
  std::array<DequantizeRowFn, quant::kDTypeIdCount> dequantize_row;

  /// c[i][j] = sum_k a[i][k] * b[j][k]
  void (*gemm_nt)(const GemmArgs& args);
  /// c[i][j] += sum_k a[i][k] * b[k][j], k ascending
  void (*gemm_nn_add)(const GemmArgs& args);
  /// c[i][j] += sum_k a[k][i] * b[k][j], k ascending
  void (*gemm_tn_add)(const GemmArgs& args);
  /// y[c * ldy + r] = x[r * ldx + c], r in [0, rows), c in [0, cols). y must not overlap x.
  void (*transpose)(const float* x, int64_t ldx, int64_t rows, int64_t cols, float* y, int64_t ldy);

  /// y[i] = gain[i] * x[i] / sqrt(mean(x^2) + eps). y may alias x. (docs: model formula 2.0)
  void (*rms_norm)(const float* x, const float* gain, float eps, int64_t n, float* y);
  /// y[i] = gain[i] * (x[i] - mean) / sqrt(var + eps) + bias[i], biased variance. y may alias x.
  void (*layer_norm)(const float* x, const float* gain, const float* bias, float eps, int64_t n, float* y);
  /// out[i] = silu(gate[i]) * up[i]. out may alias either.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  /// y[i] += factor * x[i]
  void (*add_scaled)(const float* x, float factor, int64_t n, float* y);
  /// y[i] *= factor
  void (*scale)(float factor, int64_t n, float* y);
  void (*softmax_tile)(const SoftmaxTile& tile);

  /// scores[j] = sum_h weights[h] * max(0, products[j * stride + h]), j in [0, n): the indexer's reduction
  /// over heads.
  void (*index_reduce)(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t n,
                       float* scores);
  /// bf16 rounding of a row: to nearest, ties to even.
  void (*to_bf16)(const float* x, int64_t n, uint16_t* y);

  /// rope.h's functions, to the same bits. cos_sin and x are [2 * pairs].
  void (*rope_interleaved)(const float* cos_sin, int64_t pairs, float* x);
  void (*rope_half_split)(const float* cos_sin, int64_t pairs, float* x);

  /// keys[i] orders as signed integers as scores[i] do as numbers, -0.0 equal to +0.0.
  void (*order_keys)(const float* scores, int64_t n, int32_t* keys);
  /// Copies the keys in [low, high], in order, and returns how many. out [n].
  int64_t (*keys_between)(const int32_t* keys, int64_t n, int32_t low, int32_t high, int32_t* out);
  /// Writes i, ascending, for every keys[i] > threshold and for the first `ties` of those equal to it;
  /// returns how many. Nothing beyond them is written.
  int64_t (*take_largest)(const int32_t* keys, int64_t n, int32_t threshold, int64_t ties,
                          int32_t* positions);
};

/// The table of `isa`. Calling it for an ISA that the CPU lacks is a programmer error (asserted).
const Kernels& kernels_for(Isa isa);

}  // namespace sluice::cpu
