// What attention does otherwise for few queries (MlaShape, kIsRing), where every instruction is waited for:
// rows come in passes of kStages tiles, and no word of rows or queries moves between lanes.
//
// A product does not care for the order of its dimensions. So a lane takes whole chunks of eight values, of
// queries and rows alike, as its operands of two steps: word 2 s + i of chunk 4 p + t is what it gives to
// step 2 p + s, half i. The last 16 dimensions are one step of four values a lane. Rows are read from shared
// memory by 16-byte loads, of which eight lanes, two rows, are served at once: these two are four rows apart
// (tile_row), so that they are in different banks.
#pragma once

#include "kernels_cuda/device/mla_scores.cuh"
#include "kernels_cuda/device/mla_tiles.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda::device {

/// Copies the tiles of a pass into the stages. Eight lanes have a row of each tile, every one of them looks
/// up its number and has its address.
template <typename Shape>
class PassLoader {
 public:
  __device__ __forceinline__ explicit PassLoader(MlaShared<Shape>& shared) : shared_(shared) {}

  /// Asks for the numbers of the pass's rows; they are not looked at before start_copies.
  __device__ __forceinline__ void look_up(const RowRange& pass) {
    const int row = static_cast<int>(threadIdx.x / kLanes);
#pragma unroll
    for (int tile = 0; tile < Shape::kStages; ++tile) {
      entries_[tile] = pass.entry(pass.begin + tile * Shape::kTileRows + row);
    }
  }

  /// Starts the copies of the pass, a group for each tile. row_bytes are fewer than 2^32.
  __device__ __forceinline__ void start_copies(const RowRange& pass) {
    const int row = static_cast<int>(threadIdx.x / kLanes);
    const int part = static_cast<int>(threadIdx.x % kLanes);
    // A loop, lest the compiler moves what was asked for before behind the copies.
#pragma unroll 1
    for (int tile = 0; tile < Shape::kStages; ++tile) {
      const int entry = tile == 0 ? entries_[0] : entries_[1];
      const bool has_row = pass.has_row(pass.begin + tile * Shape::kTileRows + row, entry);
      const uint32_t number = has_row ? static_cast<uint32_t>(entry) : 0;
      const uint8_t* from = pass.rows + 16 * part + uint64_t{number} * static_cast<uint32_t>(pass.row_bytes);
      const uint32_t to = ptx::shared_address(shared_.tiles[tile][row]) + Shape::kRawOffset +
                          static_cast<uint32_t>(16 * part);
#pragma unroll
      for (int chunk = 0; chunk < Shape::kRowChunks; chunk += kLanes) {
        if (chunk + kLanes <= Shape::kRowChunks || part < Shape::kRowChunks - chunk) {
          ptx::copy_16_async(to + 16 * chunk, from + 16 * chunk,
                             has_row ? ptx::Fill::kCopy : ptx::Fill::kZero);
        }
      }
      ptx::end_copy_group();
      if (part == 0) {
        shared_.mask[tile][tile_place<Shape>(row)] = has_row ? 0.0F : -INFINITY;
      }
    }
  }

 private:
  static constexpr int kLanes = Shape::kThreads / Shape::kTileRows;
  static_assert(kLanes == 8 && Shape::kStages == 2);

  MlaShared<Shape>& shared_;
  int entries_[Shape::kStages];
};

/// Values as they come from memory, and as words of two bf16.
struct EightFloats {
  float4 low;
  float4 high;
};
__device__ __forceinline__ EightFloats ask_for_eight(const float* values) {
  return {__ldg(reinterpret_cast<const float4*>(values)), __ldg(reinterpret_cast<const float4*>(values) + 1)};
}
__device__ __forceinline__ uint4 ask_for_eight(const __nv_bfloat16* values) {
  return __ldg(reinterpret_cast<const uint4*>(values));
}
__device__ __forceinline__ float4 ask_for_four(const float* values) {
  return __ldg(reinterpret_cast<const float4*>(values));
}
__device__ __forceinline__ uint2 ask_for_four(const __nv_bfloat16* values) {
  return __ldg(reinterpret_cast<const uint2*>(values));
}
__device__ __forceinline__ uint2 words_of(const float4& four) {
  return make_uint2(two_bf16(four.x, four.y), two_bf16(four.z, four.w));
}
__device__ __forceinline__ uint4 words_of(const EightFloats& eight) {
  const uint2 low = words_of(eight.low);
  const uint2 high = words_of(eight.high);
  return make_uint4(low.x, low.y, high.x, high.y);
}
__device__ __forceinline__ uint2 words_of(const uint2& four) {
  return four;
}
__device__ __forceinline__ uint4 words_of(const uint4& eight) {
  return eight;
}

inline constexpr int kStepPairs = kDimsPerWarp / 32;
static_assert(kDimsPerWarp == 32 * kStepPairs + 16);

/// A lane's queries: those of heads 16 m + 8 half + g.
template <typename T>
struct QueryChunks {
  decltype(ask_for_eight(static_cast<const T*>(nullptr))) eights[2][2][kStepPairs];  // [m][half]
  decltype(ask_for_four(static_cast<const T*>(nullptr))) fours[2][2];
};

/// `queries` begins at the block's first head, of which there are `n_heads`, one or more. What stands for
/// those that are not there is not written anywhere: it is the last one again.
template <typename Shape, typename T>
__device__ __forceinline__ QueryChunks<T> ask_for_queries(const T* queries, int n_heads,
                                                          const MlaPlace<Shape>& at) {
  QueryChunks<T> chunks;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int head = min(8 * i + at.g, n_heads - 1);
    const T* from = queries + head * kRowDims + kDimsPerWarp * at.warp;
#pragma unroll
    for (int pair = 0; pair < kStepPairs; ++pair) {
      chunks.eights[i / 2][i % 2][pair] = ask_for_eight(from + 32 * pair + 8 * at.t);
    }
    chunks.fours[i / 2][i % 2] = ask_for_four(from + 32 * kStepPairs + 4 * at.t);
  }
  return chunks;
}

/// Queries in bf16 as operands.
template <typename T>
__device__ __forceinline__ QueryFragments fragments_of(const QueryChunks<T>& chunks) {
  QueryFragments q;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    auto& a = q.a[i / 2];
    const int half = i % 2;
#pragma unroll
    for (int pair = 0; pair < kStepPairs; ++pair) {
      const uint4 words = words_of(chunks.eights[i / 2][half][pair]);
      a[2 * pair][half] = words.x;
      a[2 * pair][half + 2] = words.y;
      a[2 * pair + 1][half] = words.z;
      a[2 * pair + 1][half + 2] = words.w;
    }
    const uint2 words = words_of(chunks.fours[i / 2][half]);
    a[2 * kStepPairs][half] = words.x;
    a[2 * kStepPairs][half + 2] = words.y;
  }
  return q;
}

/// The same as multiply_queries, from queries of fragments_of.
template <typename Shape>
__device__ __forceinline__ PartialScores multiply_chunks(const MlaShared<Shape>& shared,
                                                         const QueryFragments& q, int tile,
                                                         const MlaPlace<Shape>& at) {
  PartialScores s{};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int row = tile_row<Shape>(kTeamRows * at.row_team + 8 * n + at.g);
    const uint8_t* from = shared.tiles[tile % Shape::kStages][row] + 2 * kDimsPerWarp * at.warp;
    uint4 eights[kStepPairs];
#pragma unroll
    for (int pair = 0; pair < kStepPairs; ++pair) {
      eights[pair] = *reinterpret_cast<const uint4*>(from + 64 * pair + 16 * at.t);
    }
    const auto four = *reinterpret_cast<const uint2*>(from + 64 * kStepPairs + 8 * at.t);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int pair = 0; pair < kStepPairs; ++pair) {
        ptx::mma_bf16(s.c[m][n], q.a[m][2 * pair], eights[pair].x, eights[pair].y);
        ptx::mma_bf16(s.c[m][n], q.a[m][2 * pair + 1], eights[pair].z, eights[pair].w);
      }
      ptx::mma_bf16(s.c[m][n], q.a[m][2 * kStepPairs], four.x, four.y);
    }
  }
  return s;
}

}  // namespace sluice::cuda::device
