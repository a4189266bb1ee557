// Absorbed multi-head latent attention of one query token over selected cache rows (model formula 2.5): each
// selected row is read once, for all heads, tile by tile with a running softmax. Serves sparse and dense
// attention alike.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/row_source.h"
#include "quant/base/view.h"

namespace sluice::cpu {

/// Floats of scratch for mla_attend.
int64_t mla_scratch_floats(int64_t heads, int64_t row_cols);

/// out[h] = sum_j softmax_j(softmax_scale * query[h] . row_j) * row_j[0, out.cols), j over `selection`.
/// query [heads, rows.cols] (absorbed latent part first, rope part last), out [heads, latent <= rows.cols].
/// selection.count >= 1. Only selected rows are touched.
void mla_attend(const Kernels& kernels, MatrixView<const float> query, const CacheRows& rows,
                const RowSelection& selection, float softmax_scale, MatrixView<float> out,
                std::span<float> scratch);

}  // namespace sluice::cpu
