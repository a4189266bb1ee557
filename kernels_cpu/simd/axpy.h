// Float32 matrix products that add to c, over the vector vocabulary V: gemm_nn_add and gemm_tn_add. A lane is
// a column of c, so there are no sums over lanes; every element is one FMA per k on itself, k ascending,
// wherever it lies in a tile and whatever m and n are.
//
// Columns are the outer loop: the few columns of b at work stay in L1 while all rows of c pass by.
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/simd/c_headers.h"

namespace sluice::cpu {
namespace {

/// Where a[i][k] lies: gemm_nn_add has a [m, k].
struct RowMajor {
  static const float* row(const GemmArgs& args, int64_t i) { return args.a + i * args.lda; }
  static int64_t row_step(const GemmArgs& args) { return args.lda; }
  static int64_t k_step(const GemmArgs& /*args*/) { return 1; }
};
/// gemm_tn_add has a [k, m].
struct ColumnMajor {
  static const float* row(const GemmArgs& args, int64_t i) { return args.a + i; }
  static int64_t row_step(const GemmArgs& /*args*/) { return 1; }
  static int64_t k_step(const GemmArgs& args) { return args.lda; }
};

/// Vectors of a tile's columns: whole ones, or the first `lanes` lanes of the row's last one.
template <class V>
struct WholeVectors {
  static typename V::F load(const float* p) { return V::load(p); }
  static void store(float* p, typename V::F a) { V::store(p, a); }
};
template <class V>
struct FirstLanes {
  int64_t lanes;
  [[nodiscard]] typename V::F load(const float* p) const { return V::load_first(p, lanes); }
  void store(float* p, typename V::F a) const { V::store_first(p, lanes, a); }
};

/// Columns [j, j + kVectors * lanes) of rows [i, i + kRows).
template <class V, class Layout, int kRows, int kVectors, class Columns>
void axpy_tile(const GemmArgs& args, int64_t i, int64_t j, const Columns& columns) {
  constexpr size_t kR = kRows;
  constexpr size_t kN = kVectors;
  typename V::F sum[kR][kN];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = columns.load(args.c + (i + r) * args.ldc + j + v * V::kLanes);
    }
  }
  const float* a = Layout::row(args, i);
  const float* b = args.b + j;
  const int64_t row_step = Layout::row_step(args);
  for (int64_t k = 0; k < args.k; ++k) {
    typename V::F w[kN];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      w[v] = columns.load(b + v * V::kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename V::F x = V::set1(a[r * row_step]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = V::fma(x, w[v], sum[r][v]);
      }
    }
    a += Layout::k_step(args);
    b += args.ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      columns.store(args.c + (i + r) * args.ldc + j + v * V::kLanes, sum[r][v]);
    }
  }
}

/// These columns of rows [i, args.m): tiles of kRows, then of half as many.
template <class V, class Layout, int kRows, int kVectors, class Columns>
void axpy_columns(const GemmArgs& args, int64_t i, int64_t j, const Columns& columns) {
  for (; i + kRows <= args.m; i += kRows) {
    axpy_tile<V, Layout, kRows, kVectors>(args, i, j, columns);
  }
  if constexpr (kRows > 1) {
    if (i < args.m) {
      axpy_columns<V, Layout, kRows / 2, kVectors>(args, i, j, columns);
    }
  }
}

/// The last n < lanes columns, from j. A model of 8 heads has no more of them, so a vector of 16 lanes would
/// compute twice what is needed.
template <class V, class Layout>
void axpy_last(const GemmArgs& args, int64_t j, int64_t n) {
  if constexpr (V::kLanes > V::Half::kLanes) {
    using Half = typename V::Half;
    if (n == Half::kLanes) {
      axpy_columns<Half, Layout, V::kAxpyRows, 1>(args, 0, j, WholeVectors<Half>{});
      return;
    }
    if (n < Half::kLanes) {
      axpy_columns<Half, Layout, V::kAxpyRows, 1>(args, 0, j, FirstLanes<Half>{n});
      return;
    }
  }
  axpy_columns<V, Layout, V::kAxpyRows, 1>(args, 0, j, FirstLanes<V>{n});
}

template <class V, class Layout>
void axpy(const GemmArgs& args) {
  constexpr int64_t kWide = V::kAxpyWideVectors * V::kLanes;
  constexpr int64_t kTwo = 2 * V::kLanes;
  int64_t j = 0;
  for (; j + kWide <= args.n; j += kWide) {
    axpy_columns<V, Layout, V::kAxpyWideRows, V::kAxpyWideVectors>(args, 0, j, WholeVectors<V>{});
  }
  for (; j + kTwo <= args.n; j += kTwo) {
    axpy_columns<V, Layout, V::kAxpyRows, 2>(args, 0, j, WholeVectors<V>{});
  }
  if (j + V::kLanes <= args.n) {
    axpy_columns<V, Layout, V::kAxpyRows, 1>(args, 0, j, WholeVectors<V>{});
    j += V::kLanes;
  }
  if (j < args.n) {
    axpy_last<V, Layout>(args, j, args.n - j);
  }
}

template <class V>
void gemm_nn_add(const GemmArgs& args) {
  axpy<V, RowMajor>(args);
}

template <class V>
void gemm_tn_add(const GemmArgs& args) {
  axpy<V, ColumnMajor>(args);
}

}  // namespace
}  // namespace sluice::cpu
