// The GEMV of quantized panels (kernels_cuda/gemv.h), for every format of panel_formats.cuh.
//
// A warp multiplies one panel's columns of its block's slice: fragments of 16 rows x 32 columns straight from
// global memory, activations as bytes from shared memory. The eight columns of a product are the four bytes
// of two tokens; where sixteen columns share a scale by lanes (ScaleGroup::kEachTwoLanes), they are the bytes
// of one token twice, each time with the other half's columns zero, so that the halves' sums come out apart.
#pragma once

#include "kernels_cuda/device/activation_bytes.cuh"
#include "kernels_cuda/device/gemv_args.cuh"
#include "kernels_cuda/device/mma.cuh"
#include "kernels_cuda/device/panel_formats.cuh"

namespace sluice::cuda {

/// Tokens of one product of fragments.
template <class Format>
inline constexpr int kTileTokens = Format::kGroup == ScaleGroup::kEachTwoLanes ? 1 : 2;

/// Chunks whose activations lie in shared memory at once: about 16 KB of them. A multiple of every kChunks.
constexpr int stage_chunks(int tokens) {
  return tokens <= 2 ? 64 : tokens <= 4 ? 32 : 16;
}

template <class Format, int kTokens>
struct GemvWarp {
  static constexpr int kTiles = (kTokens + kTileTokens<Format> - 1) / kTileTokens<Format>;
  static constexpr int kStage = stage_chunks(kTokens);
  using Stage = ActivationStage<kTokens, kStage>;

  PanelLane panel;
  int n_tokens;
  float sums[kTiles][4];  // of d0..d3 of every tile, each its own byte of x

  __device__ GemvWarp(int tokens) : n_tokens(tokens) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[tile][i] = 0.0F;
    }
  }

  /// The token that a tile's results in this lane belong to, and the one whose bytes the lane reads.
  __device__ int token_of(int tile, bool reads) const {
    if constexpr (kTileTokens<Format> == 1) return tile;
    const int token = tile * 2 + (reads ? panel.g / 4 : panel.t / 2);
    return min(token, n_tokens - 1);
  }

  __device__ static void accumulate(const uint32_t (&d)[4], float2 scale, float factor, float (&into)[4]) {
    const float first = scale.x * factor;
    const float second = scale.y * factor;
    into[0] = fmaf(unbiased(d[0]), first, into[0]);
    into[1] = fmaf(unbiased(d[1]), first, into[1]);
    into[2] = fmaf(unbiased(d[2]), second, into[2]);
    into[3] = fmaf(unbiased(d[3]), second, into[3]);
  }

  __device__ void add_chunk(const uint32_t (&a)[4], const ChunkScales& scales, const Stage& stage,
                            int chunk) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint2 b = stage.bytes[token_of(tile, true)][chunk][panel.g % 4 * 4 + panel.t];
      const ChunkFactors x = stage.factors[token_of(tile, false)][chunk];
      uint32_t d[4];
      if constexpr (Format::kGroup == ScaleGroup::kEachWord) {
        mma_int8_k16(a[0], a[1], b.x, d);
        accumulate(d, scales.scale, x.scale, sums[tile]);
        mma_int8_k16(a[2], a[3], b.y, d);
        accumulate(d, scales.second, x.scale, sums[tile]);
      } else {
        if constexpr (Format::kGroup == ScaleGroup::kEachTwoLanes) {
          if (panel.g / 4 != panel.t / 2) b = {0, 0};
        }
        mma_int8_k32(a, b, d);
        accumulate(d, scales.scale, x.scale, sums[tile]);
      }
      if constexpr (Format::kHasMin) {  // once a row and token: where the top byte's sum is
        const float sum = panel.t % 2 == 1 ? x.sum : 0.0F;
        sums[tile][1] = fmaf(-scales.min.x, sum, sums[tile][1]);
        sums[tile][3] = fmaf(-scales.min.y, sum, sums[tile][3]);
      }
    }
  }

  /// Steps [first, first + count), whose activations start at the stage's chunk 0.
  __device__ void multiply(const Stage& stage, int first, int count) {
    for (int begin = 0; begin < count; begin += Format::kDepth) {
      typename Format::Raw raw[Format::kDepth];
#pragma unroll
      for (int i = 0; i < Format::kDepth; ++i) {
        raw[i] = Format::load(panel, first + min(begin + i, count - 1));
      }
#pragma unroll
      for (int i = 0; i < Format::kDepth; ++i) {
        if (begin + i < count) {
#pragma unroll
          for (int c = 0; c < Format::kChunks; ++c) {
            uint32_t a[4];
            ChunkScales scales;
            Format::chunk(raw[i], c, first + begin + i, a, scales);
            add_chunk(a, scales, stage, (begin + i) * Format::kChunks + c);
          }
        }
      }
    }
  }

  /// Puts the bytes of x together: sums of rows 2g and 2g + 1 go to out[token][2g].
  __device__ void write(float* out) const {
    const float low = panel.t % 2 == 0 ? 0x1p-24F : 0x1p-8F;
    const float high = panel.t % 2 == 0 ? 0x1p-16F : 1.0F;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float2 row{sums[tile][0] * low + sums[tile][1] * high, sums[tile][2] * low + sums[tile][3] * high};
      row.x += __shfl_xor_sync(0xFFFFFFFFU, row.x, 1);
      row.y += __shfl_xor_sync(0xFFFFFFFFU, row.y, 1);
      if constexpr (kTileTokens<Format> == 1) {
        row.x += __shfl_xor_sync(0xFFFFFFFFU, row.x, 2);
        row.y += __shfl_xor_sync(0xFFFFFFFFU, row.y, 2);
      }
      const int token = kTileTokens<Format> == 1 ? tile : tile * 2 + panel.t / 2;
      const bool writes = kTileTokens<Format> == 1 ? panel.t == 0 : panel.t % 2 == 0;
      if (writes && token < n_tokens)
        *reinterpret_cast<float2*>(out + token * kGroupRows + 2 * panel.g) = row;
    }
  }
};

template <class Format, int kTokens>
__global__ void __launch_bounds__(kGemvThreads, kTokens == 1   ? Format::kBlocks
                                                : kTokens == 2 ? 3
                                                               : 2)
    gemv_kernel(const __grid_constant__ GemvArgs args) {
  using Warp = GemvWarp<Format, kTokens>;
  constexpr int kStageSteps = Warp::kStage / Format::kChunks;
  __shared__ typename Warp::Stage stage;
  __shared__ __align__(16) float sums[kTokens * kGroupRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int begin = static_cast<int>(blockIdx.y) * args.steps_per_slice;
  const int end = min(begin + args.steps_per_slice, args.steps);
  for (int group = static_cast<int>(blockIdx.x); group < args.groups; group += static_cast<int>(gridDim.x)) {
    const unsigned char* panel = panel_of(args, group, warp);
    Warp work(args.n_tokens);
    work.panel = {panel + lane / 4 * 8, panel + args.scales_at, lane / 4, lane % 4};
    for (int first = begin; first < end; first += kStageSteps) {
      const int count = min(kStageSteps, end - first);
      __syncthreads();
      load_activations<Format::kOrder>(args.x, args.x_stride, args.n_tokens, first * Format::kChunks,
                                       count * Format::kChunks, stage);
      __syncthreads();
      if (panel != nullptr) work.multiply(stage, first, count);
    }
    if (panel != nullptr) work.write(sums + warp * static_cast<int>(quant::kPanelRows));
    finish_group(args, group, sums);
    __syncthreads();
  }
}

/// What a format's file gives to kernels_cuda/gemv.cu.
struct GemvFormat {
  void (*launch)(const GemvArgs& args, dim3 grid, cudaStream_t stream);
  int step_cols;
  int blocks;  // on a multiprocessor at once
};

template <class Format>
void launch_gemv(const GemvArgs& args, dim3 grid, cudaStream_t stream) {
  const auto run = [&](auto* kernel) { kernel<<<grid, kGemvThreads, 0, stream>>>(args); };
  if (args.n_tokens == 1) {
    run(gemv_kernel<Format, 1>);
  } else if (args.n_tokens == 2) {
    run(gemv_kernel<Format, 2>);
  } else if (args.n_tokens <= 4) {
    run(gemv_kernel<Format, 4>);
  } else {
    run(gemv_kernel<Format, 8>);
  }
}

extern const GemvFormat kGemvQ8_0;
extern const GemvFormat kGemvNVFP4;
extern const GemvFormat kGemvMXFP4;
extern const GemvFormat kGemvQ4_0;
extern const GemvFormat kGemvQ5_0;
extern const GemvFormat kGemvQ4_K;
extern const GemvFormat kGemvQ5_K;
extern const GemvFormat kGemvQ6_K;
extern const GemvFormat kGemvF32;
extern const GemvFormat kGemvF16;
extern const GemvFormat kGemvBF16;

}  // namespace sluice::cuda
