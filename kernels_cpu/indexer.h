// The lightning indexer's scores (model formula 2.6, step 7), blocked over keys; never materialised per head
// beyond one tile.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/row_source.h"
#include "quant/base/view.h"

namespace sluice::cpu {

/// Floats of scratch for index_scores.
int64_t index_scratch_floats(int64_t heads, int64_t head_dim);

/// scores[j] = sum_h weights[h] * max(0, query[h] . key_j), j in [0, scores.size()).
/// query [heads, keys.cols], weights [heads] (already scaled).
void index_scores(const Kernels& kernels, MatrixView<const float> query, std::span<const float> weights,
                  const CacheRows& keys, std::span<float> scores, std::span<float> scratch);

}  // namespace sluice::cpu
