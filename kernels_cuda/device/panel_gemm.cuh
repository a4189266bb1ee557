// The product of panels with many tokens (kernels_cuda/panel_gemm.h), for every format of panel_formats.cuh.
//
// A block multiplies sixteen panels with 64 tokens. Its eight warps hold two panels each: the words come
// straight from global memory and are decoded to bf16 fragments in registers, once for all 64 tokens; x comes
// through a ring in shared memory. The columns of a product of fragments are those of a lane's words
// (quad_of), for weights and x alike, so neither is ever moved between lanes.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/activation_bytes.cuh"
#include "kernels_cuda/device/panel_formats.cuh"
#include "kernels_cuda/panel_gemm.h"

namespace sluice::cuda {

inline constexpr int kGemmThreads = 256;
inline constexpr int kGemmPanels = 16;  // of a block
inline constexpr int kGemmTokens = 64;  // of a block
inline constexpr int kGemmCols = 128;   // of a stage
inline constexpr int kGemmStages = 3;
/// Elements from row to row of x in shared memory: rows eight banks apart, so that the 8-byte reads of four
/// of them meet no bank twice.
inline constexpr int kGemmRow = kGemmCols + 16;
inline constexpr int64_t kGemmSharedBytes = int64_t{2} * kGemmStages * kGemmTokens * kGemmRow;

/// Blocks on a multiprocessor at once, as far as registers allow: two have 128 a thread, which is enough for
/// codes that are bytes already, and would make the others spill.
template <class Format>
inline constexpr int kGemmBlocks = Format::kQuantStride == FormatQ8_0::kQuantStride ? 2 : 1;

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

/// d += A B for A [16, 16] and B [16, 8] of bf16, d float.
__device__ __forceinline__ void mma_bf16(const uint32_t (&a)[4], uint2 b, float (&d)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

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

/// Asks for columns [first, first + kGemmCols) of the block's tokens; zeros where there is no token or
/// column.
__device__ __forceinline__ void ask_for_x(const PanelGemmArgs& args, const int (&rows)[kGemmTokens],
                                          int first, uint16_t* stage) {
  constexpr int kPieces = kGemmCols / 8;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kGemmTokens * kPieces; i += kGemmThreads) {
    const int token = i / kPieces;
    const int col = first + i % kPieces * 8;
    const int row = rows[token];
    const int bytes = row < 0 ? 0 : max(0, min(8, args.cols - col)) * 2;
    const uint16_t* from = bytes == 0 ? args.x : args.x + row * args.x_stride + col;
    const auto to =
        static_cast<uint32_t>(__cvta_generic_to_shared(stage + token * kGemmRow + i % kPieces * 8));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  }
}

/// Which expert and slots a block has: tiles of kGemmTokens, expert after expert.
struct GemmTile {
  int expert;
  int begin;
  int count;  // 0: nothing
};

__device__ __forceinline__ GemmTile tile_of(const PanelGemmArgs& args, int index) {
  for (int e = 0; e < args.experts; ++e) {
    const int begin = args.begins[e];
    const int count = args.begins[e + 1] - begin;
    const int tiles = (count + kGemmTokens - 1) / kGemmTokens;
    if (index < tiles) return {e, begin + index * kGemmTokens, min(kGemmTokens, count - index * kGemmTokens)};
    index -= tiles;
  }
  return {0, 0, 0};
}

template <class Format>
__device__ __forceinline__ void multiply_stage(const PanelLane (&panels)[2], const uint16_t* stage, int first,
                                               int steps, float (&sums)[2][kGemmTokens / 8][4]) {
  constexpr int kStageSteps = kGemmCols / (32 * Format::kChunks);
  const uint32_t zeros[4] = {0, 0, 0, 0};
  const typename Format::Tables tables(zeros);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kStageSteps; ++i) {
    const int step = first + i;
    if (step >= steps) break;
    typename Format::Raw raw[2];
#pragma unroll
    for (int p = 0; p < 2; ++p) raw[p] = Format::load(panels[p], step);
#pragma unroll
    for (int c = 0; c < Format::kChunks; ++c) {
      uint32_t fragments[2][2][4];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        uint32_t a[4];
        ChunkScales scales;
        Format::chunk(raw[p], tables, c, step, a, scales);
        decode_chunk<Format>(a, scales, fragments[p]);
      }
      const uint16_t* x = stage + lane / 4 * kGemmRow + (i * Format::kChunks + c) * 32;
#pragma unroll
      for (int quad = 0; quad < 2; ++quad) {
#pragma unroll
        for (int n = 0; n < kGemmTokens / 8; ++n) {
          const uint2 b =
              *reinterpret_cast<const uint2*>(x + n * 8 * kGemmRow + quad_of<Format::kOrder>(lane % 4, quad));
          mma_bf16(fragments[0][quad], b, sums[0][n]);
          mma_bf16(fragments[1][quad], b, sums[1][n]);
        }
      }
    }
  }
}

template <class Format>
__global__ void __launch_bounds__(kGemmThreads, kGemmBlocks<Format>)
    panel_gemm_kernel(const __grid_constant__ PanelGemmArgs args) {
  extern __shared__ __align__(16) uint16_t ring[];
  __shared__ int rows[kGemmTokens];
  constexpr int kStageElements = kGemmTokens * kGemmRow;
  const GemmTile tile = tile_of(args, static_cast<int>(blockIdx.y));
  if (tile.count == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < kGemmTokens; i += kGemmThreads) {
    const int slot = tile.begin + i;
    rows[i] = i >= tile.count ? -1 : args.tokens == nullptr ? slot : args.tokens[slot];
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
#pragma unroll
  for (int s = 0; s < kGemmStages - 1; ++s) {
    if (s < stages) ask_for_x(args, rows, s * kGemmCols, ring + s * kStageElements);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  float sums[2][kGemmTokens / 8][4] = {};
  for (int s = 0; s < stages; ++s) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGemmStages - 2) : "memory");
    __syncthreads();  // stage s is there, and nobody reads stage s - 1 any more
    const int ahead = s + kGemmStages - 1;
    if (ahead < stages) ask_for_x(args, rows, ahead * kGemmCols, ring + ahead % kGemmStages * kStageElements);
    asm volatile("cp.async.commit_group;" ::: "memory");
    multiply_stage<Format>(panels, ring + s % kGemmStages * kStageElements,
                           s * (kGemmCols / (32 * Format::kChunks)), steps, sums);
  }
  const float scale = args.scales == nullptr ? 1.0F : args.scales[tile.expert];
#pragma unroll
  for (int p = 0; p < 2; ++p) {
#pragma unroll
    for (int n = 0; n < kGemmTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = (first_panel + p) * static_cast<int>(quant::kPanelRows) + lane / 4 * 2 + i / 2;
        const int token = n * 8 + lane % 4 * 2 + i % 2;
        if (row < args.rows && token < tile.count)
          args.y[(tile.begin + token) * args.y_stride + row] = sums[p][n][i] * scale;
      }
    }
  }
}

template <class Format>
void launch_panel_gemm(const PanelGemmArgs& args, dim3 grid, cudaStream_t stream) {
  allow_shared<kGemmSharedBytes>(panel_gemm_kernel<Format>, "panel_gemm");
  panel_gemm_kernel<Format><<<grid, kGemmThreads, kGemmSharedBytes, stream>>>(args);
}

}  // namespace sluice::cuda
