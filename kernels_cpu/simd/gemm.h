// The float32 matrix product gemm_nt over the vector vocabulary V (vector_avx2.h, vector_avx512.h).
//
// Every element of c is computed by one fixed sequence of operations, wherever it lies in a tile and whatever
// m and n are: one accumulator per lane, k ascending by FMA, the tail of k in masked lanes, then one tree of
// lane additions (V::sums4). Walking k in chunks saves and restores the accumulators; it adds no operation.
//
// Tiles at the edge run the same code on fewer rows or on repeated columns whose results are dropped.
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

// gemm_nt walks blocks of c with a chunk of k, so that each operand is read from L1 several times: a chunk of
// 2 KiB for the 16 columns and the 4 rows at work. Chosen by measuring: half and twice these sizes are 0 to
// 10 % slower.
inline constexpr int64_t kBlockTiles = 4;     // rows of a block, in tiles
inline constexpr int64_t kBlockColumns = 16;  // columns of a block: a multiple of every tile width
inline constexpr int64_t kChunk = 512;        // a multiple of every lane count

/// [begin, end) of k. `saved` holds the accumulators between chunks: zeroed before the first, summed after
/// the last.
struct DotChunk {
  int64_t begin;
  int64_t end;
  bool first;
  bool last;
};

/// The tile of c at (i, j): its rows of a and b, and a vector of partial sums for each of its elements.
template <class V, int kRows, int kColumns>
struct DotTile {
  static constexpr size_t kR = kRows;
  static constexpr size_t kC = kColumns;

  const float* a[kR];
  const float* b[kC];
  typename V::F sum[kR][kC];

  /// Columns beyond args.n repeat the last one.
  [[gnu::always_inline]] inline void point_at(const GemmArgs& args, int64_t i, int64_t j) {
    for (int r = 0; r < kRows; ++r) {
      a[r] = args.a + (i + r) * args.lda;
    }
    for (int c = 0; c < kColumns; ++c) {
      b[c] = args.b + (j + c < args.n ? j + c : args.n - 1) * args.ldb;
    }
  }

  [[gnu::always_inline]] inline void clear_or_load(const DotChunk& chunk, const float* saved) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        sum[r][c] = chunk.first ? V::zero() : V::load(saved + (r * kColumns + c) * V::kLanes);
      }
    }
  }

  [[gnu::always_inline]] inline void save(float* saved) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        V::store(saved + (r * kColumns + c) * V::kLanes, sum[r][c]);
      }
    }
  }

  /// One vector of k of every row; load_at(p) reads a vector or its masked first lanes.
  template <class Load>
  [[gnu::always_inline]] inline void step(int64_t k, const Load& load_at) {
    typename V::F x[kR];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      x[r] = load_at(a[r] + k);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const typename V::F w = load_at(b[c] + k);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sum[r][c] = V::fma(x[r], w, sum[r][c]);
      }
    }
  }

  /// Writes the lane sums of the columns that exist.
  [[gnu::always_inline]] inline void finish(const GemmArgs& args, int64_t i, int64_t j) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float* out = args.c + (i + r) * args.ldc + j;
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; c += 4) {
        const __m128 four = V::sums4(sum[r][c], sum[r][c + 1], sum[r][c + 2], sum[r][c + 3]);
        if (j + c + 4 <= args.n) {
          _mm_storeu_ps(out + c, four);
        } else {
          float edge[4];
          _mm_storeu_ps(edge, four);
          for (int64_t e = 0; j + c + e < args.n && e < 4; ++e) {
            out[c + e] = edge[e];
          }
        }
      }
    }
  }
};

/// c[i .. i + kRows)[j .. j + kColumns), columns beyond args.n dropped.
template <class V, int kRows, int kColumns>
void dot_tile(const GemmArgs& args, int64_t i, int64_t j, const DotChunk& chunk, float* saved) {
  DotTile<V, kRows, kColumns> tile;
  tile.point_at(args, i, j);
  tile.clear_or_load(chunk, saved);
  int64_t k = chunk.begin;
  for (; k + V::kLanes <= chunk.end; k += V::kLanes) {
    tile.step(k, [](const float* p) { return V::load(p); });
  }
  if (k < chunk.end) {
    const int64_t rest = chunk.end - k;
    tile.step(k, [rest](const float* p) { return V::load_first(p, rest); });
  }
  if (chunk.last) {
    tile.finish(args, i, j);
  } else {
    tile.save(saved);
  }
}

/// Rows [i, i + rows), rows <= kRows, of one block's columns [j, j_end).
template <class V, int kRows>
void dot_rows(const GemmArgs& args, int64_t i, int64_t rows, int64_t j, int64_t j_end, const DotChunk& chunk,
              float* saved) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      dot_rows<V, kRows - 1>(args, i, rows, j, j_end, chunk, saved);
      return;
    }
  }
  // A single row alone has too few accumulators to hide the FMA's latency in four columns.
  constexpr int kColumns = kRows == 1 ? 8 : 4;
  for (; j < j_end; j += kColumns) {
    dot_tile<V, kRows, kColumns>(args, i, j, chunk, saved);
    saved += kRows * kColumns * V::kLanes;
  }
}

template <class V>
void gemm_nt(const GemmArgs& args) {
  constexpr int64_t kBlockRows = kBlockTiles * V::kDotRows;
  alignas(64) float saved[kBlockRows * kBlockColumns * V::kLanes];
  const int64_t step = args.m <= V::kDotRows || args.k == 0 ? args.k : kChunk;
  for (int64_t i0 = 0; i0 < args.m; i0 += kBlockRows) {
    const int64_t i_end = i0 + kBlockRows < args.m ? i0 + kBlockRows : args.m;
    for (int64_t j0 = 0; j0 < args.n; j0 += kBlockColumns) {
      const int64_t j_end = j0 + kBlockColumns < args.n ? j0 + kBlockColumns : args.n;
      int64_t k = 0;
      do {
        const int64_t end = k + step < args.k ? k + step : args.k;
        const DotChunk chunk{k, end, k == 0, end == args.k};
        for (int64_t i = i0; i < i_end; i += V::kDotRows) {
          dot_rows<V, V::kDotRows>(args, i, i_end - i, j0, j_end, chunk,
                                   saved + (i - i0) * kBlockColumns * V::kLanes);
        }
        k = end;
      } while (k < args.k);
    }
  }
}

}  // namespace
}  // namespace sluice::cpu
