// Absorbed multi-head latent attention: tiles of selected rows, running softmax (model formula 2.5).
#include "kernels_cpu/mla.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "kernels_cpu/head_panels.h"
#include "kernels_cpu/scratch.h"

namespace sluice::cpu {
namespace {

// Rows of a tile. 64 rows of 576 floats are 144 KiB of L2, beside 288 KiB of queries and 256 KiB of output
// for 128 heads. Measured; part of the result's definition, since a tile shares one maximum.
constexpr int64_t kTileRows = 64;
// Rows that are multiplied between two requests for later rows: a few microseconds of work.
constexpr int64_t kStepRows = 8;
// Rows of a piece at least: fewer would cost more to merge than another thread saves.
constexpr int64_t kMinPieceRows = 128;
static_assert(kMinPieceRows % kTileRows == 0);

constexpr float kLowest = -std::numeric_limits<float>::infinity();

/// The parts of the scratch memory.
struct Workspace {
  float* tile;      // [kTileRows, cols] decoded rows
  float* queries;   // head panels
  float* scores;    // [panels, kTileRows, kPanelHeads]
  float* rescale;   // [kPanelHeads]
  float* max;       // [heads] of mla_attend's result so far
  float* sum;       // [heads]
  float* next_max;  // [heads] of the piece that mla_attend is at
  float* next_sum;  // [heads]
  float* next_out;  // [heads, latent]

  [[nodiscard]] float* panel_scores(int64_t p) const { return scores + p * kTileRows * kPanelHeads; }
};

Workspace divide(std::span<float> scratch, int64_t heads, int64_t cols) {
  assert(static_cast<int64_t>(scratch.size()) >= mla_scratch_floats(heads, cols));
  Workspace work{};
  work.tile = aligned_scratch(scratch);
  work.queries = work.tile + whole_lines(kTileRows * cols);
  work.scores = work.queries + head_panels(heads) * kPanelHeads * cols;
  work.rescale = work.scores + head_panels(heads) * kPanelHeads * kTileRows;
  work.max = work.rescale + kPanelHeads;
  work.sum = work.max + whole_lines(heads);
  work.next_max = work.sum + whole_lines(heads);
  work.next_sum = work.next_max + whole_lines(heads);
  work.next_out = work.next_sum + whole_lines(heads);
  return work;
}

struct RowRange {
  int64_t begin;
  int64_t end;
};

/// Whole tiles of about the same number.
RowRange rows_of_piece(int64_t count, int64_t piece) {
  const int64_t pieces = mla_pieces(count);
  const auto border = [&](int64_t p) {
    return p == pieces ? count : count * p / pieces / kTileRows * kTileRows;
  };
  return {border(piece), border(piece + 1)};
}

/// scores = heads . rows, for the n rows in the tile. Meanwhile the next tile's rows are on their way.
template <class Prefetch>
void score_tile(const Kernels& kernels, const MlaQuery& query, const Workspace& work, int64_t n,
                Prefetch& next) {
  const int64_t cols = query.rows.cols;
  const int64_t panels = head_panels(query.heads.rows);
  for (int64_t p = 0; p < panels; ++p) {
    std::fill_n(work.panel_scores(p), n * kPanelHeads, 0.0F);
    for (int64_t j = 0; j < n; j += kStepRows) {
      next.ask_for((kStepRows + panels - 1) / panels);
      kernels.gemm_nn_add({.a = work.tile + j * cols,
                           .lda = cols,
                           .b = work.queries + p * cols * kPanelHeads,
                           .ldb = kPanelHeads,
                           .c = work.panel_scores(p) + j * kPanelHeads,
                           .ldc = kPanelHeads,
                           .m = std::min(kStepRows, n - j),
                           .n = panel_heads(query.heads.rows, p),
                           .k = cols});
    }
  }
}

/// Scores become weights, and out grows by the weighted rows.
void add_tile(const Kernels& kernels, const Workspace& work, int64_t n, const MlaQuery& query,
              const MlaPartial& partial) {
  const MatrixView<float> out = partial.out;
  for (int64_t p = 0; p < head_panels(out.rows); ++p) {
    const int64_t first = p * kPanelHeads;
    const int64_t heads = panel_heads(out.rows, p);
    kernels.softmax_tile({.scores = work.panel_scores(p),
                          .stride = kPanelHeads,
                          .n = n,
                          .heads = heads,
                          .scale = query.softmax_scale,
                          .running_max = partial.max + first,
                          .running_sum = partial.sum + first,
                          .rescale = work.rescale});
    for (int64_t h = 0; h < heads; ++h) {
      if (work.rescale[h] != 1.0F) {
        kernels.scale(work.rescale[h], out.cols, out.row(first + h).data());
      }
    }
    kernels.gemm_tn_add({.a = work.panel_scores(p),
                         .lda = kPanelHeads,
                         .b = work.tile,
                         .ldb = query.rows.cols,
                         .c = out.row(first).data(),
                         .ldc = out.row_stride,
                         .m = heads,
                         .n = out.cols,
                         .k = n});
  }
}

/// The heads lie packed in work.queries.
void attend_rows(const Kernels& kernels, const MlaQuery& query, RowRange range, const Workspace& work,
                 const MlaPartial& partial) {
  const int64_t heads = query.heads.rows;
  std::fill_n(partial.max, heads, kLowest);
  std::fill_n(partial.sum, heads, 0.0F);
  for (int64_t h = 0; h < heads; ++h) {
    std::ranges::fill(partial.out.row(h), 0.0F);
  }
  const auto row_at = [&query](int64_t j) { return query.selection[j]; };
  RowPrefetch next(query.rows, row_at, range.begin, range.end);
  next.ask_for(kTileRows);
  for (int64_t begin = range.begin; begin < range.end; begin += kTileRows) {
    const int64_t n = std::min(kTileRows, range.end - begin);
    for (int64_t j = 0; j < n; ++j) {
      query.rows.read(kernels, query.selection[begin + j], work.tile + j * query.rows.cols);
    }
    score_tile(kernels, query, work, n, next);
    add_tile(kernels, work, n, query, partial);
  }
}

}  // namespace

int64_t mla_pieces(int64_t count) {
  return std::clamp<int64_t>(count / kMinPieceRows, 1, kMaxMlaPieces);
}

int64_t mla_scratch_floats(int64_t heads, int64_t row_cols) {
  return kScratchSlack + whole_lines(kTileRows * row_cols) +
         head_panels(heads) * kPanelHeads * (row_cols + kTileRows) + kPanelHeads + 4 * whole_lines(heads) +
         heads * row_cols;
}

void mla_attend_piece(const Kernels& kernels, const MlaQuery& query, int64_t piece, const MlaPartial& partial,
                      std::span<float> scratch) {
  assert(query.selection.count >= 1 && query.heads.cols == query.rows.cols);
  assert(partial.out.cols <= query.rows.cols && partial.out.rows == query.heads.rows);
  const Workspace work = divide(scratch, query.heads.rows, query.rows.cols);
  pack_heads(kernels, query.heads, work.queries);
  attend_rows(kernels, query, rows_of_piece(query.selection.count, piece), work, partial);
}

void mla_merge(const Kernels& kernels, const MlaPartial& next, const MlaPartial& into) {
  for (int64_t h = 0; h < into.out.rows; ++h) {
    const float max = std::max(into.max[h], next.max[h]);
    const float shift = max == kLowest ? 0.0F : max;
    const float factor = std::exp(into.max[h] - shift);
    const float next_factor = std::exp(next.max[h] - shift);
    kernels.scale(factor, into.out.cols, into.out.row(h).data());
    kernels.add_scaled(next.out.row(h).data(), next_factor, into.out.cols, into.out.row(h).data());
    into.sum[h] = into.sum[h] * factor + next.sum[h] * next_factor;
    into.max[h] = max;
  }
}

void mla_normalize(const Kernels& kernels, const MlaPartial& partial) {
  for (int64_t h = 0; h < partial.out.rows; ++h) {
    kernels.scale(1.0F / partial.sum[h], partial.out.cols, partial.out.row(h).data());
  }
}

void mla_attend(const Kernels& kernels, const MlaQuery& query, MatrixView<float> out,
                std::span<float> scratch) {
  const int64_t count = query.selection.count;
  assert(count >= 1 && query.heads.cols == query.rows.cols);
  assert(out.cols <= query.rows.cols && out.rows == query.heads.rows);
  const Workspace work = divide(scratch, out.rows, query.rows.cols);
  pack_heads(kernels, query.heads, work.queries);
  const MlaPartial all{out, work.max, work.sum};
  attend_rows(kernels, query, rows_of_piece(count, 0), work, all);
  const MlaPartial next{{work.next_out, out.rows, out.cols}, work.next_max, work.next_sum};
  for (int64_t piece = 1; piece < mla_pieces(count); ++piece) {
    attend_rows(kernels, query, rows_of_piece(count, piece), work, next);
    mla_merge(kernels, next, all);
  }
  mla_normalize(kernels, all);
}

}  // namespace sluice::cpu
