// Shapes of the fast attention kernel, its shared memory, and how rows of the cache get there.
//
// Four warps share 32 heads and tiles of 16 rows: a "team". Each warp keeps a quarter of the queries' 576
// dimensions in registers and multiplies it with its quarter of the rows; the four partial scores meet in
// shared memory. So every row is read from shared memory once for scores and once for the sum of values,
// whatever the number of heads.
#pragma once

#include <cstdint>

#include "kernels_cuda/device/latent.cuh"
#include "kernels_cuda/device/matrix_fragments.cuh"
#include "kernels_cuda/device/ptx.cuh"
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
  static constexpr int kRowChunks = (kIsFp8 ? kFp8RowBytes : 2 * kRowDims) / 16;  // of a row as it is cached
  static constexpr int kRawOffset = kIsFp8 ? kTileRowBytes - kFp8RowBytes : 0;
  static constexpr int kStages = 64 / kTileRows;  // tiles in shared memory: 64 rows
  // With four stages tiles follow each other: two are in use, one is ready, one on its way. With two the rows
  // come in passes of 64, which costs nothing when there are no more.
  static constexpr bool kIsRing = kStages >= 4;
  static constexpr int kLoadedFirst = kIsRing ? kStages - 1 : kStages;
  static constexpr int kThreadsPerHead = 4 * kRowTeams;
  static constexpr int kColumnsPerWarp = kLatent / (kTeamWarps * kRowTeams);
  static constexpr int kWeightRowBytes = 2 * kTileRows + 16;
};

template <typename Shape>
struct MlaShared {
  alignas(16) uint8_t tiles[Shape::kStages][Shape::kTileRows][kTileRowBytes];
  alignas(16) float scores[Shape::kTeams][kTeamWarps][kTeamHeads][kTeamRows];
  alignas(16) uint8_t weights[2][Shape::kHeads][Shape::kWeightRowBytes];  // of a tile and the next
  // 0, or -infinity for a row that is not there; in the order of places (tile_place)
  alignas(16) float mask[2 * Shape::kStages][Shape::kTileRows];
  float rescale[2][Shape::kHeads];
  float inverse_sum[Shape::kHeads];  // 0 for a head without rows
};

/// The row of a tile that has place `place` among its scores and weights: for few queries places 2 i, 2 i + 1
/// of eight are rows i, i + 4 (mla_passes.cuh).
template <typename Shape>
__device__ __forceinline__ int tile_row(int place) {
  return Shape::kIsRing ? place : (place & ~7) + (place >> 1 & 3) + (place & 1) * 4;
}
/// The place of row `row`.
template <typename Shape>
__device__ __forceinline__ int tile_place(int row) {
  return Shape::kIsRing ? row : (row & ~7) + (row & 3) * 2 + (row >> 2 & 1);
}

/// The rows that a block walks: entries [begin, end) of its query's list, or rows [begin, end).
struct RowRange {
  const uint8_t* rows;
  const int32_t* selected;  // of the query; nullptr: dense
  int64_t row_bytes;
  uint32_t n_rows;
  int begin;
  int end;
  int count;  // of the query: entries from here on are not there

  /// Entry `i` as it is; anything when there is none.
  __device__ __forceinline__ int entry(int i) const {
    return selected == nullptr ? i : i < end ? __ldg(selected + i) : -1;
  }
  /// Whether entry `i` is there and `row`, its value, a row.
  [[nodiscard]] __device__ __forceinline__ bool has_row(int i, int row) const {
    return i < min(end, count) && static_cast<uint32_t>(row) < n_rows;
  }
  /// Once the count has arrived: one number fewer to keep.
  __device__ __forceinline__ void limit_to_count() {
    end = min(end, count);
    count = end;
  }
  [[nodiscard]] __device__ __forceinline__ int n_tiles(int tile_rows) const {
    return (max(min(end, count) - begin, 0) + tile_rows - 1) / tile_rows;
  }
};

/// Makes bf16 of this warp's FP8 rows of a tile, in place: they lie at the end of their place. The scale is
/// applied in float32, before the one rounding. This thread's copies must have arrived.
template <typename Shape>
__device__ __forceinline__ void convert_rows(MlaShared<Shape>& shared, int tile) {
  const auto thread = static_cast<uint32_t>(ptx::thread_x_again());
  const uint32_t lane = thread % 32;
  const uint32_t first_row = thread / 32 * Shape::kRowsPerWarp;
  __syncwarp();  // what the other lanes copied
#pragma unroll 1
  for (int r = 0; r < Shape::kRowsPerWarp; ++r) {
    uint8_t* row = shared.tiles[tile % Shape::kStages][first_row + r];
    const uint8_t* raw = row + Shape::kRawOffset;
    const auto codes = reinterpret_cast<const uint4*>(raw)[lane];
    const float scale = reinterpret_cast<const float*>(raw + kLatent)[lane / 8] * 256.0F;
    const auto rope = reinterpret_cast<const uint4*>(raw + kLatent + 16)[lane % 8];
    __syncwarp();
    const uint2 a = e4m3_to_bf16(codes.x, scale);
    const uint2 b = e4m3_to_bf16(codes.y, scale);
    const uint2 c = e4m3_to_bf16(codes.z, scale);
    const uint2 d = e4m3_to_bf16(codes.w, scale);
    auto* to = reinterpret_cast<uint4*>(row + 32 * lane);
    to[0] = make_uint4(a.x, a.y, b.x, b.y);
    to[1] = make_uint4(c.x, c.y, d.x, d.y);
    if (lane < 8) {
      reinterpret_cast<uint4*>(row + 2 * kLatent)[lane] = rope;
    }
  }
}

/// Copies tiles of rows into the ring. A warp has the same rows of every tile, and looks up the next tile's
/// numbers while this tile's copies run.
template <typename Shape>
class RowLoader {
 public:
  __device__ __forceinline__ RowLoader(MlaShared<Shape>& shared, const RowRange& range)
      : shared_(shared), range_(range) {}

  /// Starts the copies of the first kLoadedFirst tiles, having asked for all their numbers first.
  __device__ __forceinline__ void load_first() {
    const int first_row = static_cast<int>(threadIdx.x) / 32 * kRows;
    int entries[Shape::kLoadedFirst][Shape::kRowsPerWarp];
#pragma unroll
    for (int tile = 0; tile < Shape::kLoadedFirst; ++tile) {
      look_up(tile, first_row, entries[tile]);
    }
#pragma unroll
    for (int tile = 0; tile < Shape::kLoadedFirst; ++tile) {
      start_copies(tile, entries[tile]);
    }
    look_up(Shape::kLoadedFirst, first_row, entries_);
  }

  /// Starts the copies of tile `tile` (tiles come in ascending order) and ends a group of copies.
  __device__ __forceinline__ void load(int tile) {
    start_copies(tile, entries_);
    look_up(tile + 1, ptx::thread_x_again() / 32 * kRows, entries_);
  }

 private:
  using Entries = int[Shape::kRowsPerWarp];

  __device__ __forceinline__ void start_copies(int tile, const Entries& entries) {
    const int thread = ptx::thread_x_again();
    const int lane = thread % 32;
    const int first_row = thread / 32 * kRows;
    const int first_entry = range_.begin + tile * Shape::kTileRows + first_row;
    const uint32_t to = ptx::shared_address(shared_.tiles[tile % Shape::kStages][first_row]) + kRawOffset;
    const uint8_t* rows[kRows];
    ptx::Fill fills[kRows];
    bool is_there = false;  // row `lane`
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool has_row = range_.has_row(first_entry + r, entries[r]);
      rows[r] = range_.rows + (has_row ? entries[r] * range_.row_bytes : 0);
      fills[r] = has_row ? ptx::Fill::kCopy : ptx::Fill::kZero;
      is_there = lane == r ? has_row : is_there;
#pragma unroll
      for (int chunk = 0; chunk + 32 <= kChunks; chunk += 32) {
        ptx::copy_16_async(to + r * kTileRowBytes + 16 * (lane + chunk), rows[r] + 16 * (lane + chunk),
                           fills[r]);
      }
    }
    // The rest of several rows by one instruction.
#pragma unroll
    for (int first = 0; first < kRows; first += kTailRows) {
      const int r = lane / kTailChunks;
      const int chunk = kChunks - kTailChunks + lane % kTailChunks;
      const uint8_t* row = rows[first];
      ptx::Fill fill = fills[first];
#pragma unroll
      for (int other = 1; other < kTailRows; ++other) {
        row = r == other ? rows[first + other] : row;
        fill = r == other ? fills[first + other] : fill;
      }
      if (r < kTailRows) {
        ptx::copy_16_async(to + (first + r) * kTileRowBytes + 16 * chunk, row + 16 * chunk, fill);
      }
    }
    ptx::end_copy_group();
    if (lane < kRows) {
      shared_.mask[tile % (2 * Shape::kStages)][first_row + lane] = is_there ? 0.0F : -INFINITY;
    }
  }

  static constexpr int kRows = Shape::kRowsPerWarp;
  static constexpr int kChunks = Shape::kRowChunks;
  static constexpr int kTailChunks = kChunks % 32;
  static constexpr int kTailRows = kTailChunks * kRows <= 32 ? kRows : kRows / 2;
  static_assert(kTailChunks * kTailRows <= 32);
  static constexpr int kRawOffset = Shape::kRawOffset;

  __device__ __forceinline__ void look_up(int tile, int first_row, Entries& entries) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      entries[r] = range_.entry(range_.begin + tile * Shape::kTileRows + first_row + r);
    }
  }

  MlaShared<Shape>& shared_;
  const RowRange& range_;
  int entries_[Shape::kRowsPerWarp];  // of the next tile: not looked at before, so that nobody waits for them
};

}  // namespace sluice::cuda::device
