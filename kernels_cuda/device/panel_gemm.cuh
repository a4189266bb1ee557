// The product of panels with many tokens (kernels_cuda/panel_gemm.h), for every format of panel_formats.cuh.
//
// A block multiplies sixteen panels with 32, 64 or 128 tokens. Its eight warps hold two panels each: the
// words come straight from global memory, some steps ahead, and are decoded to bf16 fragments in registers,
// once for all tokens; x comes through a ring in shared memory. The columns of a product of fragments are
// those of a lane's words (quad_of), for weights and x alike, so neither is ever moved between lanes.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/activation_bytes.cuh"
#include "kernels_cuda/device/panel_formats.cuh"
#include "kernels_cuda/device/ptx.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/panel_gemm.h"

namespace sluice::cuda {

inline constexpr int kGemmThreads = 256;
inline constexpr int kGemmPanels = 16;     // of a block
inline constexpr int kGemmCols = 128;      // of a stage
inline constexpr int kGemmTokens = 64;     // of a block
inline constexpr int kFewGemmTokens = 32;  // where experts have few tokens each
/// Elements from row to row of x in shared memory: rows eight banks apart, so that the 8-byte reads of four
/// of them meet no bank twice.
inline constexpr int kGemmRow = kGemmCols + 16;

/// What a block of kTokens does for a format.
template <class Format, int kTokensArg>
struct GemmShape {
  static constexpr int kTokens = kTokensArg;
  static constexpr int kStages = kTokens <= kGemmTokens ? 3 : 2;
  static constexpr int kStageElements = kTokens * kGemmRow;
  static constexpr int64_t kSharedBytes = int64_t{2} * kStages * kStageElements;
  static constexpr int kStageSteps = kGemmCols / (32 * Format::kChunks);
  static constexpr bool kIsFew = kTokens == kFewGemmTokens;
  static constexpr bool kHasBytes = Format::kQuantStride == FormatQ8_0::kQuantStride;
  /// Blocks on a multiprocessor at once: two have 128 registers a thread, which is enough for few tokens and
  /// for codes that are bytes already, and would make others spill.
  static constexpr int kBlocks = kIsFew || (kTokens == kGemmTokens && kHasBytes) ? 2 : 1;
  /// Steps whose words are under way, as far as registers allow.
  static constexpr int kAhead = (kIsFew || kBlocks == 1) && Format::kChunks == 1 ? 2 : 1;
};

/// Tokens of a block where there are many: formats of more columns a step have no registers for more.
template <class Format>
inline constexpr int kMostGemmTokens = Format::kChunks == 1 ? 128 : kGemmTokens;

struct PanelGemmArgs {
  const unsigned char* panels;
  int64_t expert_bytes;
  int64_t panel_bytes;
  int64_t scales_at;
  const float* scales;
  int panel_count;
  int rows;
  int cols;
  int experts;
  const uint16_t* x;
  int64_t x_stride;
  const int32_t* begins;
  const int32_t* tokens;
  float* y;
  int64_t y_stride;
};

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

/// The signed byte `byte` of a word whose top bits were flipped: unsigned with 128 too many.
__device__ __forceinline__ float float_of_byte(uint32_t flipped, int byte) {
  return __uint_as_float(__byte_perm(flipped, 0x4B000000U, 0x7440 + byte)) - 8388736.0F;
}

/// Quad `quad` of one row of a chunk as bf16: columns 0, 1 and 2, 3 of it.
template <class Format>
__device__ __forceinline__ uint2 decode_quad(uint32_t first, uint32_t second, float scale, float min,
                                             int quad) {
  float v[4];
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    uint32_t word = quad == 0 ? first : second;
    int byte = b;
    if constexpr (Format::kOrder != ColumnOrder::kWords) {
      word = b < 2 ? first : second;
      byte = b % 2 * 2 + quad;
    }
    v[b] = float_of_byte(word, byte) * scale;
    if constexpr (Format::kHasMin) v[b] -= min;
  }
  return {two_bf16(v[0], v[1]), two_bf16(v[2], v[3])};
}

/// Fragments of a chunk for its two products.
template <class Format>
__device__ __forceinline__ void decode_chunk(uint32_t (&a)[4], const ChunkScales& s,
                                             uint32_t (&fragments)[2][4]) {
#pragma unroll
  for (uint32_t& word : a) word ^= 0x80808080U;
#pragma unroll
  for (int quad = 0; quad < 2; ++quad) {
    float2 scale = s.scale;
    if constexpr (Format::kGroup == ScaleGroup::kEachWord) {
      if (quad == 1) scale = s.second;
    }
    scale = times(scale, Format::kFactor);
    const float2 min = Format::kHasMin ? s.min : float2{0.0F, 0.0F};
    const uint2 one = decode_quad<Format>(a[0], a[2], scale.x, min.x, quad);
    const uint2 two = decode_quad<Format>(a[1], a[3], scale.y, min.y, quad);
    fragments[quad][0] = one.x;
    fragments[quad][1] = two.x;
    fragments[quad][2] = one.y;
    fragments[quad][3] = two.y;
  }
}

/// Where eight columns `piece` of a stage lie: those that lanes read together side by side.
template <ColumnOrder kOrder>
__device__ __forceinline__ int place_of_piece(int piece) {
  if constexpr (kOrder != ColumnOrder::kNibbles16) return piece;
  constexpr uint32_t kPlaces = 0x3120U;  // of pieces 0 to 3 of a chunk
  return piece / 4 * 4 + static_cast<int>(kPlaces >> 4 * (piece % 4) & 3U);
}

/// Asks for columns [first, first + kGemmCols) of the block's tokens, whose rows begin `offsets` bytes behind
/// x; zeros where there is no column, or no token (-1).
template <ColumnOrder kOrder, int kTokens>
__device__ __forceinline__ void ask_for_x(const PanelGemmArgs& args, const int64_t (&offsets)[kTokens],
                                          int first, uint16_t* stage) {
  constexpr int kPieces = kGemmCols / 8;
  constexpr int kTogether = kGemmThreads / kPieces;  // tokens
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int col = first + piece * 8;
  const auto* from = reinterpret_cast<const unsigned char*>(args.x + col);
  uint16_t* to = stage + place_of_piece<kOrder>(piece) * 8;
#pragma unroll
  for (int i = 0; i < kTokens / kTogether; ++i) {
    const int token = i * kTogether + static_cast<int>(threadIdx.x) / kPieces;
    const int64_t offset = offsets[token];
    const bool is_there = offset >= 0 && col < args.cols;
    ptx::copy_16_async(ptx::shared_address(to + token * kGemmRow),
                       is_there ? from + offset : reinterpret_cast<const unsigned char*>(args.x),
                       is_there ? ptx::Fill::kCopy : ptx::Fill::kZero);
  }
}

/// Which expert and slots a block has: tiles of kTokens, expert after expert.
struct GemmTile {
  int expert;
  int begin;
  int count;  // 0: nothing
};

template <int kTokens>
__device__ __forceinline__ GemmTile tile_of(const PanelGemmArgs& args, int index) {
  for (int e = 0; e < args.experts; ++e) {
    const int begin = args.begins[e];
    const int count = args.begins[e + 1] - begin;
    const int tiles = (count + kTokens - 1) / kTokens;
    if (index < tiles) return {e, begin + index * kTokens, min(kTokens, count - index * kTokens)};
    index -= tiles;
  }
  return {0, 0, 0};
}

/// The words of two panels, kAhead steps of them.
template <class Format, int kAhead>
using GemmWords = typename Format::Raw[kAhead][2];

template <class Format>
__device__ __forceinline__ void load_words(const PanelLane (&panels)[2], int step,
                                           typename Format::Raw (&words)[2]) {
#pragma unroll
  for (int p = 0; p < 2; ++p) words[p] = Format::load(panels[p], step);
}

/// Steps from `first` on, as many as a stage has and `steps` allow; `words` hold the first kAhead of them and
/// then those behind them.
template <class Format, class Shape>
__device__ __forceinline__ void multiply_stage(const PanelLane (&panels)[2], const uint16_t* stage, int first,
                                               int steps, GemmWords<Format, Shape::kAhead>& words,
                                               float (&sums)[2][Shape::kTokens / 8][4]) {
  const uint32_t zeros[4] = {0, 0, 0, 0};
  const typename Format::Tables tables(zeros);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Shape::kStageSteps; ++i) {
    const int step = first + i;
    if (step >= steps) break;
    auto& now = words[i % Shape::kAhead];
#pragma unroll
    for (int c = 0; c < Format::kChunks; ++c) {
      uint32_t fragments[2][2][4];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        uint32_t a[4];
        ChunkScales scales;
        Format::chunk(now[p], tables, c, step, a, scales);
        decode_chunk<Format>(a, scales, fragments[p]);
      }
      if (c + 1 == Format::kChunks) load_words<Format>(panels, min(step + Shape::kAhead, steps - 1), now);
      const uint16_t* x = stage + lane / 4 * kGemmRow + (i * Format::kChunks + c) * 32 + lane % 4 * 4;
#pragma unroll
      for (int quad = 0; quad < 2; ++quad) {
#pragma unroll
        for (int n = 0; n < Shape::kTokens / 8; ++n) {
          const uint2 b = *reinterpret_cast<const uint2*>(x + n * 8 * kGemmRow + quad * 16);
          ptx::mma_bf16(sums[0][n], fragments[0][quad], b.x, b.y);
          ptx::mma_bf16(sums[1][n], fragments[1][quad], b.x, b.y);
        }
      }
    }
  }
}

/// Sums of two panels and a tile's tokens to y.
template <int kTokens>
__device__ __forceinline__ void write_tile(const PanelGemmArgs& args, const GemmTile& tile, int first_panel,
                                           const float (&sums)[2][kTokens / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float scale = args.scales == nullptr ? 1.0F : args.scales[tile.expert];
#pragma unroll
  for (int p = 0; p < 2; ++p) {
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = (first_panel + p) * static_cast<int>(quant::kPanelRows) + lane / 4 * 2;
        const int token = n * 8 + lane % 4 * 2 + i;
        if (row >= args.rows || token >= tile.count) continue;
        float* y = args.y + (tile.begin + token) * args.y_stride + row;
        y[0] = sums[p][n][i] * scale;
        if (row + 1 < args.rows) y[1] = sums[p][n][2 + i] * scale;
      }
    }
  }
}

template <class Format, int kTokens>
__global__ void __launch_bounds__(kGemmThreads, (GemmShape<Format, kTokens>::kBlocks))
    panel_gemm_kernel(const __grid_constant__ PanelGemmArgs args) {
  using Shape = GemmShape<Format, kTokens>;
  SLUICE_DYNAMIC_SHARED(__align__(16) uint16_t, ring);
  __shared__ int64_t offsets[kTokens];
  const GemmTile tile = tile_of<kTokens>(args, static_cast<int>(blockIdx.y));
  if (tile.count == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens; i += kGemmThreads) {
    const int slot = tile.begin + i;
    const int row = i >= tile.count || args.tokens == nullptr ? slot : args.tokens[slot];
    offsets[i] = i >= tile.count ? -1 : row * args.x_stride * int64_t{sizeof(uint16_t)};
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_panel = static_cast<int>(blockIdx.x) * kGemmPanels + static_cast<int>(threadIdx.x) / 32 * 2;
  PanelLane panels[2];
#pragma unroll
  for (int p = 0; p < 2; ++p) {  // a panel that is not there repeats the last and is not written
    const int64_t panel = min(first_panel + p, args.panel_count - 1);
    panels[p] = PanelLane::of(args.panels + tile.expert * args.expert_bytes + panel * args.panel_bytes,
                              args.scales_at, lane);
  }
  const int stages = (args.cols + kGemmCols - 1) / kGemmCols;
  const int steps = args.cols / (32 * Format::kChunks);
  GemmWords<Format, Shape::kAhead> words;
#pragma unroll
  for (int i = 0; i < Shape::kAhead; ++i) load_words<Format>(panels, min(i, steps - 1), words[i]);
  const auto ask = [&](int s) {
    if (s < stages)
      ask_for_x<Format::kOrder>(args, offsets, s * kGemmCols,
                                ring + s % Shape::kStages * Shape::kStageElements);
    ptx::end_copy_group();
  };
#pragma unroll
  for (int s = 0; s < Shape::kStages - 1; ++s) ask(s);
  float sums[2][kTokens / 8][4] = {};
  for (int s = 0; s < stages; ++s) {
    ptx::wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // stage s is there, and nobody reads stage s - 1 any more
    ask(s + Shape::kStages - 1);
    multiply_stage<Format, Shape>(panels, ring + s % Shape::kStages * Shape::kStageElements,
                                  s * Shape::kStageSteps, steps, words, sums);
  }
  write_tile<kTokens>(args, tile, first_panel, sums);
}

/// Tiles of kTokens that `args` can have at most: the host does not know how the slots are spread, those
/// beyond the last return.
template <class Format, int kTokens>
void launch_panel_tiles(const PanelGemmArgs& args, int64_t slots, cudaStream_t stream) {
  constexpr int64_t kBytes = GemmShape<Format, kTokens>::kSharedBytes;
  const int64_t tiles = std::min(slots, slots / kTokens + args.experts);
  if (tiles > 65535) throw Error("panel_gemm", "at most 65535 tiles of tokens", std::to_string(tiles));
  allow_shared<kBytes>(panel_gemm_kernel<Format, kTokens>, "panel_gemm");
  const dim3 grid(static_cast<unsigned>(ceil_div(args.panel_count, kGemmPanels)),
                  static_cast<unsigned>(tiles));
  launch_kernel(panel_gemm_kernel<Format, kTokens>, "panel_gemm",
                {.grid = grid, .block = dim3(kGemmThreads), .shared_bytes = kBytes, .stream = stream}, args);
}

/// Experts differ in how many tokens they have, so tiles are half as large again as the average or more.
template <class Format>
void launch_panel_gemm(const PanelGemmArgs& args, int64_t slots, cudaStream_t stream) {
  if (slots > kGemmTokens * args.experts) {
    launch_panel_tiles<Format, kMostGemmTokens<Format>>(args, slots, stream);
  } else if (3 * slots <= 2 * kFewGemmTokens * args.experts) {
    launch_panel_tiles<Format, kFewGemmTokens>(args, slots, stream);
  } else {
    launch_panel_tiles<Format, kGemmTokens>(args, slots, stream);
  }
}

}  // namespace sluice::cuda
