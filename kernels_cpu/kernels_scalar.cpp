// The kernels as obvious loops in float32: the oracle that every other table is tested against.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/rope.h"
#include "quant/base/number.h"
#include "quant/block_codec.h"

namespace sluice::cpu {
namespace {

template <quant::DType kDType>
void dequantize_row(const std::byte* blocks, int64_t n, float* values) {
  const auto bytes = static_cast<size_t>(quant::row_bytes(kDType, n));
  quant::dequantize_row(kDType, {blocks, bytes}, {values, static_cast<size_t>(n)});
}

void gemm_nt(const GemmArgs& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < args.n; ++j) {
      float sum = 0.0F;
      for (int64_t k = 0; k < args.k; ++k) {
        sum += args.a[i * args.lda + k] * args.b[j * args.ldb + k];
      }
      args.c[i * args.ldc + j] = sum;
    }
  }
}

void gemm_nn_add(const GemmArgs& args) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t k = 0; k < args.k; ++k) {
      const float x = args.a[i * args.lda + k];
      for (int64_t j = 0; j < args.n; ++j) {
        args.c[i * args.ldc + j] += x * args.b[k * args.ldb + j];
      }
    }
  }
}

void gemm_tn_add(const GemmArgs& args) {
  for (int64_t k = 0; k < args.k; ++k) {
    for (int64_t i = 0; i < args.m; ++i) {
      const float x = args.a[k * args.lda + i];
      for (int64_t j = 0; j < args.n; ++j) {
        args.c[i * args.ldc + j] += x * args.b[k * args.ldb + j];
      }
    }
  }
}

void transpose(const float* x, int64_t ldx, int64_t rows, int64_t cols, float* y, int64_t ldy) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      y[c * ldy + r] = x[r * ldx + c];
    }
  }
}

void rms_norm(const float* x, const float* gain, float eps, int64_t n, float* y) {
  float squares = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    squares += x[i] * x[i];
  }
  const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = gain[i] * (x[i] * inverse);
  }
}

void layer_norm(const float* x, const float* gain, const float* bias, float eps, int64_t n, float* y) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i];
  }
  const float mean = sum / static_cast<float>(n);
  float squares = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    squares += (x[i] - mean) * (x[i] - mean);
  }
  const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = gain[i] * ((x[i] - mean) * inverse) + bias[i];
  }
}

void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float silu = gate[i] / (1.0F + std::exp(-gate[i]));
    out[i] = silu * up[i];
  }
}

void add_scaled(const float* x, float factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] += factor * x[i];
  }
}

void scale(float factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] *= factor;
  }
}

/// One head of a tile.
void softmax_head(const SoftmaxTile& tile, int64_t h) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float new_max = tile.running_max[h];
  for (int64_t j = 0; j < tile.n; ++j) {
    new_max = std::max(new_max, tile.scale * tile.scores[j * tile.stride + h]);
  }
  // With nothing but -infinity so far every weight is 0; -infinity - -infinity would be NaN.
  const float shift = new_max == kLowest ? 0.0F : new_max;
  float sum = 0.0F;
  for (int64_t j = 0; j < tile.n; ++j) {
    float& score = tile.scores[j * tile.stride + h];
    score = std::exp(tile.scale * score - shift);
    sum += score;
  }
  tile.rescale[h] = std::exp(tile.running_max[h] - shift);
  tile.running_sum[h] = tile.running_sum[h] * tile.rescale[h] + sum;
  tile.running_max[h] = new_max;
}

void softmax_tile(const SoftmaxTile& tile) {
  for (int64_t h = 0; h < tile.heads; ++h) {
    softmax_head(tile, h);
  }
}

void index_reduce(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t n,
                  float* scores) {
  for (int64_t j = 0; j < n; ++j) {
    float sum = 0.0F;
    for (int64_t h = 0; h < heads; ++h) {
      sum += weights[h] * std::max(0.0F, products[j * stride + h]);
    }
    scores[j] = sum;
  }
}

void to_bf16(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = f32_to_bf16(x[i]);
  }
}

std::span<const float> angles(const float* cos_sin, int64_t pairs) {
  return {cos_sin, static_cast<size_t>(2 * pairs)};
}

void rotate_interleaved(const float* cos_sin, int64_t pairs, float* x) {
  rope_interleaved(angles(cos_sin, pairs), {x, static_cast<size_t>(2 * pairs)});
}

void rotate_half_split(const float* cos_sin, int64_t pairs, float* x) {
  rope_half_split(angles(cos_sin, pairs), {x, static_cast<size_t>(2 * pairs)});
}

/// A float's bits are sign and magnitude: positive ones order as integers already, negative ones backwards.
void order_keys(const float* scores, int64_t n, int32_t* keys) {
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<int32_t>(scores[i] + 0.0F);  // -0.0 + 0.0 is +0.0
    keys[i] = bits < 0 ? bits ^ std::numeric_limits<int32_t>::max() : bits;
  }
}

int64_t keys_between(const int32_t* keys, int64_t n, int32_t low, int32_t high, int32_t* out) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (keys[i] >= low && keys[i] <= high) {
      out[count++] = keys[i];
    }
  }
  return count;
}

int64_t take_largest(const int32_t* keys, int64_t n, int32_t threshold, int64_t ties, int32_t* positions) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (keys[i] > threshold || (keys[i] == threshold && ties-- > 0)) {
      positions[count++] = static_cast<int32_t>(i);
    }
  }
  return count;
}

template <quant::DType... kDTypes>
constexpr void set_dequantizers(Kernels& table) {
  ((table.dequantize_row[static_cast<size_t>(kDTypes)] = dequantize_row<kDTypes>), ...);
}

constexpr Kernels make_kernels() {
  using quant::DType;
  Kernels table{};
  table.isa = Isa::kScalar;
  set_dequantizers<DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                   DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kMXFP4, DType::kNVFP4>(table);
  table.gemm_nt = gemm_nt;
  table.gemm_nn_add = gemm_nn_add;
  table.gemm_tn_add = gemm_tn_add;
  table.transpose = transpose;
  table.rms_norm = rms_norm;
  table.layer_norm = layer_norm;
  table.swiglu = swiglu;
  table.add_scaled = add_scaled;
  table.scale = scale;
  table.softmax_tile = softmax_tile;
  table.index_reduce = index_reduce;
  table.to_bf16 = to_bf16;
  table.rope_interleaved = rotate_interleaved;
  table.rope_half_split = rotate_half_split;
  table.order_keys = order_keys;
  table.keys_between = keys_between;
  table.take_largest = take_largest;
  return table;
}

}  // namespace

constinit const Kernels kScalarKernels = make_kernels();

}  // namespace sluice::cpu
