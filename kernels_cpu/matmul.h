// Quantized matrix times activations, in float32: decode a tile of weight rows, multiply it with all tokens.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "quant/base/view.h"
#include "quant/tensor.h"

namespace sluice::cpu {

/// Floats of scratch that matmul_rows needs for a weight of at most `cols` columns.
int64_t matmul_scratch_floats(int64_t cols);

/// y[t][r] = w.scale * sum_k w[r][k] * x[t][k] for r in [row_begin, row_end) and every token t.
/// x [n_tokens, w.cols], y [n_tokens, >= row_end] (only those columns are written), scratch as sized above.
void matmul_rows(const Kernels& kernels, const quant::WeightView& w, int64_t row_begin, int64_t row_end,
                 MatrixView<const float> x, MatrixView<float> y, std::span<float> scratch);

}  // namespace sluice::cpu
