// Attention's second half for a tile of rows: weights times values by mma.sync; and the output's way to
// memory.
#pragma once

#include "kernels_cuda/device/mla_scores.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda::device {

/// Accumulators of a warp: 32 heads and kColumnsPerWarp columns of the output.
template <typename Shape>
struct MlaOutput {
  float c[2][Shape::kColumnsPerWarp / 8][4];
};

/// The first of the columns that this warp sums.
template <typename Shape>
__device__ __forceinline__ int first_column(const MlaPlace<Shape>& at) {
  return Shape::kColumnsPerWarp * (Shape::kRowTeams == 1 ? at.warp : kTeamWarps * at.team + at.warp);
}

template <typename Shape>
__device__ __forceinline__ void rescale_output(const MlaShared<Shape>& shared, MlaOutput<Shape>& out,
                                               int tile, const MlaPlace<Shape>& at) {
  float by[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    by[i / 2][i % 2] = shared.rescale[tile % 2][at.first_head + 8 * i + at.g];
  }
  const bool all_one = by[0][0] == 1.0F && by[0][1] == 1.0F && by[1][0] == 1.0F && by[1][1] == 1.0F;
  if (__all_sync(0xFFFFFFFFU, all_one)) {
    return;
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (auto& c : out.c[m]) {
      c[0] *= by[m][0];
      c[1] *= by[m][0];
      c[2] *= by[m][1];
      c[3] *= by[m][1];
    }
  }
}

/// out += weights x rows[:, columns of this warp].
template <typename Shape>
__device__ __forceinline__ void add_values(MlaShared<Shape>& shared, MlaOutput<Shape>& out, int tile,
                                           const MlaPlace<Shape>& at) {
  rescale_output(shared, out, tile, at);
#pragma unroll
  for (int step = 0; step < Shape::kRowTeams; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int head = at.first_head + 16 * m + at.lane % 16;
      ptx::load_matrices(
          a[m], ptx::shared_address(shared.weights[tile % 2][head]) + 32 * step + 16 * (at.lane / 16));
    }
    const int row = tile_row<Shape>(kTeamRows * step + at.lane % 16);
    const uint32_t from = ptx::shared_address(shared.tiles[tile % Shape::kStages][row]) +
                          2 * first_column(at) + 16 * (at.lane / 16);
    constexpr int kColumnSteps = Shape::kColumnsPerWarp / 16;
    uint32_t b[2][4];  // a step ahead
    ptx::load_matrices_transposed(b[0], from);
#pragma unroll
    for (int n = 0; n < kColumnSteps; ++n) {
      if (n + 1 < kColumnSteps) {
        ptx::load_matrices_transposed(b[(n + 1) % 2], from + 32 * (n + 1));
      }
      const auto& now = b[n % 2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::mma_bf16(out.c[m][2 * n], a[m], now[0], now[1]);
        ptx::mma_bf16(out.c[m][2 * n + 1], a[m], now[2], now[3]);
      }
    }
  }
}

/// A head's columns of this warp, kPairs times two in each lane: columns 8 i + 2 t, + 1. `to` is the warp's
/// first column.
template <size_t kPairs>
__device__ __forceinline__ void store_columns(float* to, const float (&low)[kPairs],
                                              const float (&high)[kPairs], bool is_there, int t) {
  if (is_there) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(kPairs); ++i) {
      *reinterpret_cast<float2*>(to + 8 * i + 2 * t) = make_float2(low[i], high[i]);
    }
  }
}
template <size_t kPairs>
__device__ __forceinline__ void store_columns(__nv_bfloat16* to, const float (&low)[kPairs],
                                              const float (&high)[kPairs], bool is_there, int t) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(kPairs); i += 4) {
    const uint32_t words[4] = {two_bf16(low[i], high[i]), two_bf16(low[i + 1], high[i + 1]),
                               two_bf16(low[i + 2], high[i + 2]), two_bf16(low[i + 3], high[i + 3])};
    const uint4 columns = transpose_words(words, t);
    if (is_there) {
      *reinterpret_cast<uint4*>(to + 8 * (i + t)) = columns;
    }
  }
}

/// Divides by the sums and writes whole results; `to` begins at the block's first head, of which there are
/// `heads`.
template <typename Shape, typename T>
__device__ __forceinline__ void write_output(const MlaShared<Shape>& shared, const MlaOutput<Shape>& out,
                                             T* to, int heads, const MlaPlace<Shape>& at) {
  constexpr int kPairs = Shape::kColumnsPerWarp / 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int head = at.first_head + 8 * i + at.g;
    const float by = shared.inverse_sum[head];
    float low[kPairs];
    float high[kPairs];
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
      low[n] = out.c[i / 2][n][i % 2 * 2] * by;
      high[n] = out.c[i / 2][n][i % 2 * 2 + 1] * by;
    }
    store_columns(to + head * kLatent + first_column(at), low, high, head < heads, at.t);
  }
}

/// A head's part of the result, from one split: pieces of 16 bytes, each four pairs of columns that one lane
/// has, so that nothing moves between lanes on the way. The column of pair `i` of piece `piece`.
__device__ __forceinline__ int part_column(int piece, int i) {
  return 32 * (piece / 4) + 8 * i + 2 * (piece % 4);
}

/// The same as write_output for parts of the result, which mla_merge reads: [heads][512 / 8] pieces.
template <typename Shape>
__device__ __forceinline__ void write_parts(const MlaShared<Shape>& shared, const MlaOutput<Shape>& out,
                                            __nv_bfloat16* to, int heads, const MlaPlace<Shape>& at) {
  const int first_head = at.first_head + at.g;
  auto* pieces = reinterpret_cast<uint4*>(to + first_head * kLatent + first_column(at)) + at.t;
  float by[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) by[i] = shared.inverse_sum[first_head + 8 * i];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto pair = [&](int n) {
      const auto& c = out.c[i / 2][n];
      return two_bf16(c[i % 2 * 2] * by[i], c[i % 2 * 2 + 1] * by[i]);
    };
    if (first_head + 8 * i < heads) {
#pragma unroll
      for (int n = 0; n < Shape::kColumnsPerWarp / 8; n += 4) {
        pieces[i * kLatent + n] = make_uint4(pair(n), pair(n + 1), pair(n + 2), pair(n + 3));
      }
    }
  }
}

}  // namespace sluice::cuda::device
