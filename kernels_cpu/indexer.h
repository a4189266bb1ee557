// The lightning indexer's scores (model formula 2.6, step 7), blocked over keys and queries; never
// materialised per head beyond one tile.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/row_source.h"
#include "quant/base/view.h"

namespace sluice::cpu {

/// Queries that a call takes together: each tile of keys is read and converted once for all of them.
inline constexpr int64_t kMaxIndexQueries = 4;

struct IndexQueries {
  MatrixView<const float> heads;    // [queries, index_heads * keys.cols], queries in [1, kMaxIndexQueries]
  MatrixView<const float> weights;  // [queries, index_heads], already scaled
};

/// Floats of scratch for index_scores.
int64_t index_scratch_floats(int64_t heads, int64_t head_dim);

/// scores[q][j] = sum_h weights[q][h] * max(0, heads[q][h] . key_j), j in [0, scores.cols).
void index_scores(const Kernels& kernels, const IndexQueries& queries, const CacheRows& keys,
                  MatrixView<float> scores, std::span<float> scratch);

}  // namespace sluice::cpu
