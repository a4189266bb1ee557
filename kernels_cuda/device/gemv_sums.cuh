// Sums of a panel's products in a lane's registers, for every format of panel_formats.cuh.
//
// The eight columns of a product of fragments are the four bytes of two tokens; where sixteen columns share a
// scale by lanes (ScaleGroup::kEachTwoLanes), they are the bytes of one token twice, each time with the other
// half's columns zero, so that the halves' sums come out apart.
#pragma once

#include "kernels_cuda/device/activation_bytes.cuh"
#include "kernels_cuda/device/mma.cuh"
#include "kernels_cuda/device/panel_formats.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda {

/// Tokens of one product of fragments.
template <class Format>
inline constexpr int kTileTokens = Format::kGroup == ScaleGroup::kEachTwoLanes ? 1 : 2;

/// Whether sums of a chunk's activations are looked at.
template <class Format>
inline constexpr ChunkSums kChunkSums = Format::kHasMin ? ChunkSums::kWanted : ChunkSums::kNone;

template <class Format, int kTokens>
struct GemvSums {
  static constexpr int kTile = kTileTokens<Format>;
  static constexpr int kTiles = (kTokens + kTile - 1) / kTile;

  AccumulatorStart start;
  typename Format::Tables tables;
  float sums[kTiles][4] = {};  // of d0..d3 of every tile, each its own byte of x

  /// `zeros` are kernel arguments.
  __device__ explicit GemvSums(const uint32_t (&zeros)[4]) : start(zeros), tables(zeros) {}
  __device__ void clear() {
#pragma unroll
    for (auto& tile : sums) {
#pragma unroll
      for (float& sum : tile) sum = 0.0F;
    }
  }

  /// A lane's part of the activations: what it multiplies, and the factors of what it gets. Where lanes share
  /// a scale, those of the other half of a token's columns multiply with zeros and never move on.
  struct Activations {
    const uint2* bytes;
    int bytes_stride;  // from token to token, in uint2
    int chunk_stride;  // that advance() goes, in uint2
    const float* scales;
    const float* sums;
    int chunks;  // from token to token of scales and sums

    __device__ static Activations of(const ActivationStage& stage, int lane) {
      const int g = lane / 4;
      const int t = lane % 4;
      const int reads = kTokens > 1 && kTile == 2 ? g / 4 : 0;  // token of the tile
      const int gets = kTokens > 1 && kTile == 2 ? t / 2 : 0;
      const bool multiplies = Format::kGroup != ScaleGroup::kEachTwoLanes || g / 4 == t / 2;
      return {multiplies ? stage.bytes + reads * stage.chunks * 16 + g % 4 * 4 + t : stage.zeros(),
              multiplies ? stage.chunks * 16 : 0,
              multiplies ? 16 : 0,
              stage.scales + gets * stage.chunks,
              stage.sums + gets * stage.chunks,
              stage.chunks};
    }
    __device__ void advance(int by) {
      bytes += by * chunk_stride;
      scales += by;
      sums += by;
    }
  };

  __device__ static void accumulate(const uint32_t (&d)[4], float2 scale, float factor, float (&into)[4]) {
    const float first = scale.x * factor;
    const float second = scale.y * factor;
    into[0] = fmaf(unbiased(d[0]), first, into[0]);
    into[1] = fmaf(unbiased(d[1]), first, into[1]);
    into[2] = fmaf(unbiased(d[2]), second, into[2]);
    into[3] = fmaf(unbiased(d[3]), second, into[3]);
  }

  static_assert(Format::kGroup != ScaleGroup::kEachTwoLanes ||
                Format::kDepth * Format::kChunks * 16 <= ActivationStage::kZeros);

  /// Chunk `chunk` of x (kEachTwoLanes: of kDepth steps at most), times the fragment a. A token that is not
  /// there reads what lies in its place; nobody reads the result.
  __device__ void add(const uint32_t (&a)[4], const ChunkScales& scales, const Activations& x, int chunk) {
    [[maybe_unused]] const bool is_odd = threadIdx.x % 2 == 1;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int token = tile * kTile * x.chunks;
      const uint2 b = x.bytes[tile * kTile * x.bytes_stride + chunk * 16];
      const float factor = x.scales[token + chunk];
      uint32_t d[4];
      if constexpr (Format::kGroup == ScaleGroup::kEachWord) {
        ptx::mma_int8_k16(d, a[0], a[1], b.x, start.bits);
        accumulate(d, scales.scale, factor, sums[tile]);
        ptx::mma_int8_k16(d, a[2], a[3], b.y, start.bits);
        accumulate(d, scales.second, factor, sums[tile]);
      } else {
        ptx::mma_int8(d, a, b.x, b.y, start.bits);
        accumulate(d, scales.scale, factor, sums[tile]);
      }
      if constexpr (Format::kHasMin) {  // once a row and token: where the top byte's sum is
        const float sum = is_odd ? x.sums[token + chunk] : 0.0F;
        sums[tile][1] = fmaf(-scales.min.x, sum, sums[tile][1]);
        sums[tile][3] = fmaf(-scales.min.y, sum, sums[tile][3]);
      }
    }
  }

  /// A step's chunks; its first is chunk `first` of x.
  __device__ void add_step(const typename Format::Raw& raw, int step, const Activations& x, int first) {
#pragma unroll
    for (int c = 0; c < Format::kChunks; ++c) {
      uint32_t a[4];
      ChunkScales scales;
      Format::chunk(raw, tables, c, step, a, scales);
      add(a, scales, x, first + c);
    }
  }

  /// Puts the bytes of x together: sums of rows 2g and 2g + 1 go to out[token * stride + 2g].
  __device__ void write(int n_tokens, float* out, int stride) const {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4;
    const int t = static_cast<int>(threadIdx.x) % 4;
    const float low = (t % 2 == 0 ? 0x1p-24F : 0x1p-8F) * Format::kFactor;
    const float high = (t % 2 == 0 ? 0x1p-16F : 1.0F) * Format::kFactor;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float2 row{sums[tile][0] * low + sums[tile][1] * high, sums[tile][2] * low + sums[tile][3] * high};
      row.x += __shfl_xor_sync(0xFFFFFFFFU, row.x, 1);
      row.y += __shfl_xor_sync(0xFFFFFFFFU, row.y, 1);
      if constexpr (kTile == 1) {
        row.x += __shfl_xor_sync(0xFFFFFFFFU, row.x, 2);
        row.y += __shfl_xor_sync(0xFFFFFFFFU, row.y, 2);
      }
      const int token = kTile == 1 ? tile : tile * 2 + t / 2;
      if (t % (4 / kTile) == 0 && token < n_tokens)
        *reinterpret_cast<float2*>(out + token * stride + 2 * g) = row;
    }
  }
};

}  // namespace sluice::cuda
