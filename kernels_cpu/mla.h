// Absorbed multi-head latent attention of one query token over selected cache rows (model formula 2.5): each
// selected row is read and converted once, for all heads of the call, tile by tile with a running softmax.
// Serves sparse and dense attention alike.
//
// The rows are cut into pieces that depend on their number only. A piece attends on its own and pieces are
// merged in order, so heads and pieces may go to different threads, and the result is the same bits as on
// one.
#pragma once

#include <cstdint>
#include <span>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/row_source.h"
#include "quant/base/view.h"

namespace sluice::cpu {

/// What one query token asks. selection.count >= 1. Only selected rows are touched.
struct MlaQuery {
  MatrixView<const float> heads;  // [heads, rows.cols]: absorbed latent part first, rope part last
  CacheRows rows;
  RowSelection selection;
  float softmax_scale = 1.0F;
};

/// Attention over some of the rows, not yet divided by the sum of the weights.
struct MlaPartial {
  MatrixView<float> out;  // [heads, latent <= rows.cols]: sum_j exp(score_j - max) * row_j[0, latent)
  float* max;             // [heads] the largest score
  float* sum;             // [heads] sum_j exp(score_j - max)

  [[nodiscard]] MlaPartial heads(int64_t begin, int64_t count) const {
    return {out.rows_from(begin, count), max + begin, sum + begin};
  }
};

/// Pieces into which a selection of `count` rows is cut.
inline constexpr int64_t kMaxMlaPieces = 8;
int64_t mla_pieces(int64_t count);

/// Floats of scratch for mla_attend_piece and mla_attend.
int64_t mla_scratch_floats(int64_t heads, int64_t row_cols);

/// Attends to the rows of one piece.
void mla_attend_piece(const Kernels& kernels, const MlaQuery& query, int64_t piece, const MlaPartial& partial,
                      std::span<float> scratch);
/// into <- into and the piece after it.
void mla_merge(const Kernels& kernels, const MlaPartial& next, const MlaPartial& into);
/// Divides by the sums: partial.out is the attention of all merged rows then.
void mla_normalize(const Kernels& kernels, const MlaPartial& partial);

/// All pieces one after the other:
/// out[h] = sum_j softmax_j(softmax_scale * heads[h] . row_j) * row_j[0, out.cols), j over the selection.
void mla_attend(const Kernels& kernels, const MlaQuery& query, MatrixView<float> out,
                std::span<float> scratch);

}  // namespace sluice::cpu
