// Shapes of the fast attention kernel, its shared memory, and how rows of the cache get there.
//
// Four warps share 32 heads and tiles of 16 rows: a "team". Each warp keeps a quarter of the queries' 576
// dimensions in registers and multiplies it with its quarter of the rows; the four partial scores meet in
// shared memory. So every row is read from shared memory once for scores and once for the sum of values,
// whatever the number of heads.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/async_copy.cuh"
#include "kernels_cuda/device/latent.cuh"
#include "kernels_cuda/device/mma.cuh"
#include "kernels_cuda/latent_rows.h"

namespace sluice::cuda::device {

inline constexpr int kLatent = 512;
inline constexpr int kRope = 64;
inline constexpr int kRowDims = kLatent + kRope;
inline constexpr int kTeamWarps = 4;
inline constexpr int kTeamHeads = 32;
inline constexpr int kTeamRows = 16;
inline constexpr int kDimsPerWarp = kRowDims / kTeamWarps;  // 144: nine steps of 16
inline constexpr int kTileRowBytes =
    2 * kRowDims + 16;  // 16 more, so that eight rows hit eight groups of banks
inline constexpr int kFp8RowBytes = latent_row_bytes(LatentFormat::kFp8, kLatent, kRope);

/// kHeadTeams teams on different heads and the same rows, or kRowTeams teams on the same heads and different
/// rows.
template <int kHeadTeamsArg, int kRowTeamsArg, LatentFormat kFormatArg>
struct MlaShape {
  static constexpr int kHeadTeams = kHeadTeamsArg;
  static constexpr int kRowTeams = kRowTeamsArg;
  static constexpr LatentFormat kFormat = kFormatArg;
  static constexpr int kTeams = kHeadTeams * kRowTeams;
  static constexpr int kWarps = kTeamWarps * kTeams;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kHeads = kTeamHeads * kHeadTeams;
  static constexpr int kTileRows = kTeamRows * kRowTeams;
  static constexpr int kRowsPerWarp = kTileRows / kWarps;
  static constexpr bool kIsFp8 = kFormat == LatentFormat::kFp8;
  static constexpr int kStages = 64 / kTileRows;  // tiles under way or in use: 64 rows
  // FP8 rows are converted into a tile of their own: one ahead, where there is room for two tiles.
  static constexpr int kTiles = !kIsFp8 ? kStages : kTileRows == 16 ? 2 : 1;
  static constexpr int kAhead = kIsFp8 ? kTiles - 1 : 0;
  static constexpr int kMaskStages = 2 * kStages;
  static constexpr int kThreadsPerHead = 4 * kRowTeams;
  static constexpr int kColumnsPerWarp = kLatent / (kTeamWarps * kRowTeams);
  static constexpr int kWeightRowBytes = 2 * kTileRows + 16;
};

template <typename Shape>
struct MlaShared {
  alignas(16) uint8_t tiles[Shape::kTiles][Shape::kTileRows][kTileRowBytes];
  alignas(16) uint8_t raw[Shape::kIsFp8 ? Shape::kStages * Shape::kTileRows * kFp8RowBytes : 16];
  alignas(16) float scores[Shape::kTeams][kTeamWarps][kTeamHeads][kTeamRows];
  alignas(16) uint8_t weights[Shape::kHeads][Shape::kWeightRowBytes];
  alignas(
      16) float mask[Shape::kMaskStages][Shape::kTileRows];  // 0, or -infinity for a row that is not there
  float rescale[Shape::kHeads];
  float sum[Shape::kHeads];
};

/// The rows that a block walks: entries [begin, end) of its query's list, or rows [begin, end).
struct RowRange {
  const uint8_t* rows;
  const int32_t* selected;  // of the query; nullptr: dense
  int64_t row_bytes;
  uint32_t n_rows;
  int begin;
  int end;

  /// The row of entry `i`; -1 when there is none.
  __device__ __forceinline__ int row_of(int i) const {
    if (i >= end) {
      return -1;
    }
    const int row = selected != nullptr ? __ldg(selected + i) : i;
    return static_cast<uint32_t>(row) < n_rows ? row : -1;
  }
};

/// Copies tiles of rows into the ring of stages. A warp has the same rows of every tile, and looks up the
/// next tile's numbers while this tile's copies run.
template <typename Shape>
class RowLoader {
 public:
  __device__ __forceinline__ RowLoader(MlaShared<Shape>& shared, const RowRange& range)
      : shared_(shared), range_(range) {
    look_up(0);
  }

  /// Starts the copies of tile `tile` (tiles come in ascending order) and ends a group of copies, empty past
  /// the end.
  __device__ __forceinline__ void load(int tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int stage = tile % Shape::kStages;
#pragma unroll
    for (int r = 0; r < Shape::kRowsPerWarp; ++r) {
      const int row = row_numbers_[r];
      const uint8_t* from = range_.rows + (row < 0 ? 0 : row * range_.row_bytes);
      const uint32_t to = place(stage, first_row() + r);
#pragma unroll
      for (int chunk = lane; chunk < kChunks; chunk += 32) {
        copy_16_async(to + 16 * chunk, from + 16 * chunk, row < 0 ? Fill::kZero : Fill::kCopy);
      }
      if (lane == 0) {
        shared_.mask[tile % Shape::kMaskStages][first_row() + r] = row < 0 ? -INFINITY : 0.0F;
      }
    }
    end_copy_group();
    look_up(tile + 1);
  }

 private:
  static constexpr int kChunks = (Shape::kIsFp8 ? kFp8RowBytes : 2 * kRowDims) / 16;

  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x) / 32 * Shape::kRowsPerWarp;
  }

  __device__ __forceinline__ uint32_t place(int stage, int row) const {
    if constexpr (Shape::kIsFp8) {
      return shared_address(shared_.raw + (stage * Shape::kTileRows + row) * kFp8RowBytes);
    } else {
      return shared_address(shared_.tiles[stage][row]);
    }
  }

  __device__ __forceinline__ void look_up(int tile) {
#pragma unroll
    for (int r = 0; r < Shape::kRowsPerWarp; ++r) {
      row_numbers_[r] = range_.row_of(range_.begin + tile * Shape::kTileRows + first_row() + r);
    }
  }

  MlaShared<Shape>& shared_;
  const RowRange& range_;
  int row_numbers_[Shape::kRowsPerWarp];
};

/// FP8 rows of a stage into a tile of bf16. The scale is applied in float32, before the one rounding.
template <typename Shape>
__device__ __forceinline__ void convert_fp8(MlaShared<Shape>& shared, int tile) {
  constexpr int kCodeChunks = kLatent / 16;
  constexpr int kRopeChunks = 2 * kRope / 16;
  const uint8_t* raw = shared.raw + tile % Shape::kStages * Shape::kTileRows * kFp8RowBytes;
  auto& rows = shared.tiles[tile % Shape::kTiles];
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kTileRows * kCodeChunks; i += Shape::kThreads) {
    const int row = i / kCodeChunks;
    const int chunk = i % kCodeChunks;
    const uint8_t* from = raw + row * kFp8RowBytes;
    const auto codes = *reinterpret_cast<const uint4*>(from + 16 * chunk);
    const float scale = reinterpret_cast<const float*>(from + kLatent)[chunk / 8] * 256.0F;
    const uint2 a = e4m3_to_bf16(codes.x, scale);
    const uint2 b = e4m3_to_bf16(codes.y, scale);
    const uint2 c = e4m3_to_bf16(codes.z, scale);
    const uint2 d = e4m3_to_bf16(codes.w, scale);
    auto* to = reinterpret_cast<uint4*>(rows[row] + 32 * chunk);
    to[0] = make_uint4(a.x, a.y, b.x, b.y);
    to[1] = make_uint4(c.x, c.y, d.x, d.y);
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kTileRows * kRopeChunks; i += Shape::kThreads) {
    const int row = i / kRopeChunks;
    const int chunk = i % kRopeChunks;
    const auto* from = reinterpret_cast<const uint4*>(raw + row * kFp8RowBytes + kLatent + 16);
    reinterpret_cast<uint4*>(rows[row] + 2 * kLatent)[chunk] = from[chunk];
  }
}

}  // namespace sluice::cuda::device
