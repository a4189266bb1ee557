// Absorbed multi-head latent attention: tiles of selected rows, running softmax (model formula 2.5).
#include "kernels_cpu/mla.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "kernels_cpu/scratch.h"

namespace sluice::cpu {
namespace {

// Rows of a tile. 32 rows of 576 floats are 72 KiB of L2; more rows amortise the rescaling of `out` further
// but leave L2 to nothing else. Tile borders depend only on the index in the selection, so the result does
// not depend on callers.
constexpr int64_t kTileRows = 32;

/// The parts of the scratch memory.
struct Workspace {
  float* tile;    // [kTileRows, cols] decoded rows
  float* scores;  // [heads, kTileRows]
  float* max;     // [heads]
  float* sum;     // [heads]
};

Workspace divide(std::span<float> scratch, int64_t heads, int64_t cols) {
  float* tile = aligned_scratch(scratch);
  float* scores = tile + whole_lines(kTileRows * cols);
  float* max = scores + whole_lines(heads * kTileRows);
  return {tile, scores, max, max + heads};
}

void softmax_heads(const Kernels& kernels, const Workspace& work, int64_t n, float softmax_scale,
                   MatrixView<float> out) {
  for (int64_t h = 0; h < out.rows; ++h) {
    SoftmaxTile step{.scores = work.scores + h * kTileRows,
                     .n = n,
                     .scale = softmax_scale,
                     .running_max = work.max[h],
                     .running_sum = work.sum[h],
                     .rescale = 0.0F};
    kernels.softmax_tile(step);
    work.max[h] = step.running_max;
    work.sum[h] = step.running_sum;
    if (step.rescale != 1.0F) {
      kernels.scale(step.rescale, out.cols, out.row(h).data());
    }
  }
}

}  // namespace

int64_t mla_scratch_floats(int64_t heads, int64_t row_cols) {
  return kScratchSlack + whole_lines(kTileRows * row_cols) + whole_lines(heads * kTileRows) + 2 * heads;
}

void mla_attend(const Kernels& kernels, MatrixView<const float> query, const CacheRows& rows,
                const RowSelection& selection, float softmax_scale, MatrixView<float> out,
                std::span<float> scratch) {
  assert(selection.count >= 1 && query.cols == rows.cols && out.cols <= rows.cols && out.rows == query.rows);
  assert(static_cast<int64_t>(scratch.size()) >= mla_scratch_floats(query.rows, rows.cols));
  const int64_t heads = query.rows;
  const Workspace work = divide(scratch, heads, rows.cols);
  std::fill_n(work.max, heads, -std::numeric_limits<float>::infinity());
  std::fill_n(work.sum, heads, 0.0F);
  for (int64_t h = 0; h < heads; ++h) {
    std::ranges::fill(out.row(h), 0.0F);
  }
  for (int64_t begin = 0; begin < selection.count; begin += kTileRows) {
    const int64_t n = std::min(kTileRows, selection.count - begin);
    for (int64_t j = 0; j < n; ++j) {
      rows.read(kernels, selection[begin + j], work.tile + j * rows.cols);
    }
    kernels.gemm_nt({.a = query.data,
                     .lda = query.row_stride,
                     .b = work.tile,
                     .ldb = rows.cols,
                     .c = work.scores,
                     .ldc = kTileRows,
                     .m = heads,
                     .n = n,
                     .k = rows.cols});
    softmax_heads(kernels, work, n, softmax_scale, out);
    kernels.gemm_nn_add({.a = work.scores,
                         .lda = kTileRows,
                         .b = work.tile,
                         .ldb = rows.cols,
                         .c = out.data,
                         .ldc = out.row_stride,
                         .m = heads,
                         .n = out.cols,
                         .k = n});
  }
  for (int64_t h = 0; h < heads; ++h) {
    kernels.scale(1.0F / work.sum[h], out.cols, out.row(h).data());
  }
}

}  // namespace sluice::cpu
