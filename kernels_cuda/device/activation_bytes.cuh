// Activations as four signed bytes each, for int8 matrix products with panels.
//
// The largest |x| of a chunk of 32 columns fixes a power of two: v = x * 2^k, |v| < 2^30, is rounded to an
// integer, and v = 2^24 p3 + 2^16 p2 + 2^8 p1 + p0 with bytes in [-128, 127]. In shared memory a chunk is
//
//   bytes [piece 4][t 4][word 2] of 4 columns, 128 bytes: lane (g, t) reads piece g % 4 with one 8-byte load;
//   before the first chunk lie zeros, for lanes that shall multiply with nothing
//   scale 2^(24 - k), so that piece p counts 2^(8 p - 24); sum of the 32 x
#pragma once

#include <cstdint>

#include "kernels_cuda/device/panel_formats.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda {

/// Room in shared memory for `chunks` chunks of each token; arrays [tokens][chunks].
struct ActivationStage {
  uint2* bytes;  // 16 each
  float* scales;
  float* sums;
  int chunks;

  /// Bytes of shared memory, a multiple of 16.
  static constexpr int64_t shared_bytes(int64_t tokens, int64_t chunks) {
    return kZeros * int64_t{sizeof(uint2)} + tokens * chunks * 136 + tokens * chunks * 136 % 16;
  }
  /// Called by all threads; a barrier later the zeros are there.
  __device__ static ActivationStage at(uint2* memory, int tokens, int chunks) {
    if (threadIdx.x < kZeros) memory[threadIdx.x] = {0, 0};
    uint2* bytes = memory + kZeros;
    auto* scales = reinterpret_cast<float*>(bytes + tokens * chunks * 16);
    return {bytes, scales, scales + tokens * chunks, chunks};
  }
  static constexpr int kZeros = 64;  // in uint2: of four chunks
  [[nodiscard]] __device__ const uint2* zeros() const { return bytes - kZeros; }
};

/// First column of the four that lane t's word `word` means, before kNibbles interleaves them.
template <ColumnOrder kOrder>
__device__ __forceinline__ int quad_of(int t, int word) {
  if constexpr (kOrder == ColumnOrder::kNibbles16) return 16 * (t / 2) + 4 * (t % 2) + 8 * word;
  return 16 * word + 4 * t;
}

/// Four numbers' four bytes each, transposed: out[p] holds byte p of all four.
__device__ __forceinline__ void transpose_bytes(uint32_t e0, uint32_t e1, uint32_t e2, uint32_t e3,
                                                uint32_t (&out)[4]) {
  const uint32_t low01 = __byte_perm(e0, e1, 0x5140);   // e0.0 e1.0 e0.1 e1.1
  const uint32_t high01 = __byte_perm(e0, e1, 0x7362);  // e0.2 e1.2 e0.3 e1.3
  const uint32_t low23 = __byte_perm(e2, e3, 0x5140);
  const uint32_t high23 = __byte_perm(e2, e3, 0x7362);
  out[0] = __byte_perm(low01, low23, 0x5410);
  out[1] = __byte_perm(low01, low23, 0x7632);
  out[2] = __byte_perm(high01, high23, 0x5410);
  out[3] = __byte_perm(high01, high23, 0x7632);
}

/// 2^k as a float, k in [-126, 127].
__device__ __forceinline__ float power_of_two(int k) {
  return __int_as_float((k + 127) << 23);
}

/// The larger magnitude; NaN if one is.
__device__ __forceinline__ float larger(float a, float b) {
  return ptx::max_nan(fabsf(a), fabsf(b));
}

/// Bytes of round(x * 2^k) as described above, in one word.
__device__ __forceinline__ uint32_t bytes_of(float x, float power) {
  return (static_cast<uint32_t>(__float2int_rn(x * power)) + 0x00808080U) ^ 0x00808080U;
}

/// What load_activations may leave out: divisions that tell tokens apart, and the sums that only formats with
/// minima look at.
enum class Tokens { kOne, kAny };
enum class ChunkSums { kNone, kWanted };

/// Rows of x one after the other.
struct EvenRows {
  const float* x;
  int64_t stride;  // in floats
  __device__ const float* operator()(int token) const { return x + token * stride; }
};

/// Fills `stage` with chunks [first, first + count) of every token, whose x begins at row_of(token); all
/// threads of the block, count <= stage.chunks. The caller puts barriers around it.
template <ColumnOrder kOrder, Tokens kTokens, ChunkSums kSums, typename RowOf>
__device__ void load_activations(const RowOf& row_of, int n_tokens, int first, int count,
                                 const ActivationStage& stage) {
  const int per_token = count * 4;
  const int total = kTokens == Tokens::kOne ? per_token : n_tokens * per_token;
  const auto threads = static_cast<int>(blockDim.x);
  const auto token_of = [&](int at) { return kTokens == Tokens::kOne ? 0 : at / per_token; };
  const auto address = [&](int i, int word) {
    const int at = min(i, total - 1);
    const int token = token_of(at);
    const float* row = row_of(token) + static_cast<int64_t>(first + (at - token * per_token) / 4) * 32;
    return reinterpret_cast<const float4*>(row + quad_of<kOrder>(at % 4, word));
  };
  float4 next_one = *address(static_cast<int>(threadIdx.x), 0);
  float4 next_two = *address(static_cast<int>(threadIdx.x), 1);
  // Whole warps go round, so that shuffles meet everybody; what lies beyond the end repeats the last.
  for (int i = static_cast<int>(threadIdx.x); i - static_cast<int>(threadIdx.x % 32) < total; i += threads) {
    const int at = min(i, total - 1);
    const int token = token_of(at);
    const int chunk = (at - token * per_token) / 4;
    const int t = at % 4;
    const float4 one = next_one;
    const float4 two = next_two;
    if (i + threads < total + 31) {
      next_one = *address(i + threads, 0);
      next_two = *address(i + threads, 1);
    }
    float largest = larger(larger(larger(one.x, one.y), larger(one.z, one.w)),
                           larger(larger(two.x, two.y), larger(two.z, two.w)));
    float sum = ((one.x + one.y) + (one.z + one.w)) + ((two.x + two.y) + (two.z + two.w));
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2) {
      largest = larger(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, lane));
      if constexpr (kSums == ChunkSums::kWanted) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, lane);
    }
    // |x| < 2^(exponent + 1), so 2^(29 - exponent) takes it below 2^30.
    const int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
    const int k = min(29 - exponent, 126);
    const float power = power_of_two(max(k, -126));
    const auto bytes = [power](float v) { return bytes_of(v, power); };
    uint32_t words[2][4];
    if constexpr (kOrder == ColumnOrder::kWords) {
      transpose_bytes(bytes(one.x), bytes(one.y), bytes(one.z), bytes(one.w), words[0]);
      transpose_bytes(bytes(two.x), bytes(two.y), bytes(two.z), bytes(two.w), words[1]);
    } else {
      transpose_bytes(bytes(one.x), bytes(two.x), bytes(one.y), bytes(two.y), words[0]);
      transpose_bytes(bytes(one.z), bytes(two.z), bytes(one.w), bytes(two.w), words[1]);
    }
    if (i >= total) continue;
#pragma unroll
    for (int piece = 0; piece < 4; ++piece) {
      stage.bytes[(token * stage.chunks + chunk) * 16 + piece * 4 + t] = {words[0][piece], words[1][piece]};
    }
    if (t == 0) {
      const float scale = exponent == 128 ? __uint_as_float(0x7FFFFFFFU) : power_of_two(24 - k);
      stage.scales[token * stage.chunks + chunk] = scale;
      if constexpr (kSums == ChunkSums::kWanted) stage.sums[token * stage.chunks + chunk] = sum;
    }
  }
}

}  // namespace sluice::cuda
