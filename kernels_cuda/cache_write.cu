#include "kernels_cuda/cache_write.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <bit>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/rotate.cuh"

namespace sluice::cuda {
namespace {

constexpr int kLatentThreads = 256;
constexpr int kIndexThreads = 128;
constexpr int kFp8Group = 128;  // values that share a scale

__device__ uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/// What a row is made of: `value(i)` in float, stored by Store.
struct StoreF32 {
  __device__ static void row(unsigned char* row, const float* values, int d_latent, int d_rope) {
    for (int i = static_cast<int>(threadIdx.x); i < d_latent + d_rope; i += kLatentThreads) {
      reinterpret_cast<float*>(row)[i] = values[i];
    }
  }
};

struct StoreBf16 {
  __device__ static void row(unsigned char* row, const float* values, int d_latent, int d_rope) {
    for (int i = static_cast<int>(threadIdx.x); i < d_latent + d_rope; i += kLatentThreads) {
      reinterpret_cast<uint16_t*>(row)[i] = bf16_bits(values[i]);
    }
  }
};

/// 2^ceil(log2(x)) of a positive normal number.
__device__ float power_of_two_above(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x007FFFFFU) & 0x7F800000U);
}

struct StoreFp8 {
  /// A warp for each group of 128.
  __device__ static void row(unsigned char* row, const float* values, int d_latent, int d_rope) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int groups = d_latent / kFp8Group;
    for (int group = static_cast<int>(threadIdx.x) / 32; group < groups; group += kLatentThreads / 32) {
      const float* from = values + group * kFp8Group;
      float largest = 0.0F;
      for (int i = lane; i < kFp8Group; i += 32) largest = fmaxf(largest, fabsf(from[i]));
      largest = combine_warp(largest, [](float a, float b) { return fmaxf(a, b); });
      const float scale = power_of_two_above(fmaxf(largest, 1e-4F) / 448.0F);
      for (int i = lane; i < kFp8Group; i += 32) {
        row[group * kFp8Group + i] = __nv_cvt_float_to_fp8(from[i] / scale, __NV_SATFINITE, __NV_E4M3);
      }
      if (lane == 0) reinterpret_cast<float*>(row + d_latent)[group] = scale;
    }
    auto* rope = reinterpret_cast<uint16_t*>(row + d_latent + 4 * groups);
    for (int i = static_cast<int>(threadIdx.x); i < d_rope; i += kLatentThreads) {
      rope[i] = bf16_bits(values[d_latent + i]);
    }
  }
};

template <class Store>
__global__ void latent_kernel(LatentWrite w, TokenPositions tokens) {
  __shared__ float values[2 * kMostLatent];
  __shared__ float scratch[32];
  const int64_t token = blockIdx.x;
  const auto d_latent = static_cast<int>(w.d_latent);
  const auto d_rope = static_cast<int>(w.d_rope);
  follow_last();
  const int64_t position = tokens.positions[token];
  const float* u = w.u + token * w.u_stride;
  float squares = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < d_latent + d_rope; i += kLatentThreads) {
    values[i] = u[i];
    if (i < d_latent) squares = fmaf(u[i], u[i], squares);
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(d_latent);  // has a barrier
  const float factor = 1.0F / sqrtf(mean + w.eps);
  for (int i = static_cast<int>(threadIdx.x); i < d_latent; i += kLatentThreads)
    values[i] = w.gain[i] * (values[i] * factor);
  for (int i = static_cast<int>(threadIdx.x); i < d_rope / 2; i += kLatentThreads) {
    rotate_pair(values + d_latent, tokens.cos_sin + position * d_rope, i, d_rope, RopeLayout::kInterleaved);
  }
  __syncthreads();
  Store::row(static_cast<unsigned char*>(w.rows) + position * w.row_bytes, values, d_latent, d_rope);
}

/// A block for each token.
LaunchShape shape_for(const TokenPositions& tokens, int threads, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(tokens.n_tokens)),
          .block = dim3(static_cast<unsigned>(threads)),
          .stream = stream};
}

template <class Store>
void write_latent(const LatentWrite& w, const TokenPositions& tokens, cudaStream_t stream) {
  if (w.d_latent < 1 || w.d_latent > kMostLatent || w.d_rope < 0 || w.d_rope > kMostLatent ||
      w.d_rope % 2 != 0 || w.row_bytes % 4 != 0) {
    throw Error("write_latent", "at most 1024 latent and rope values in rows of whole words", "others");
  }
  if (tokens.n_tokens == 0) return;
  launch_overlapping(latent_kernel<Store>, "write_latent", shape_for(tokens, kLatentThreads, stream), w,
                     tokens);
}

/// The key before it is stored, in shared memory; ends with a barrier.
__device__ void index_key(const IndexKeyWrite& w, const TokenPositions& tokens, float* values,
                          float* scratch) {
  const int64_t token = blockIdx.x;
  const auto n = static_cast<int>(w.d_index);
  const auto d_rope = static_cast<int>(w.d_rope);
  const float* k = w.k + token * w.k_stride;
  float sum = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kIndexThreads) sum += k[i];
  const float mean = block_sum(sum, scratch) / static_cast<float>(n);
  float squares = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kIndexThreads) {
    squares = fmaf(k[i] - mean, k[i] - mean, squares);
  }
  const float factor = 1.0F / sqrtf(block_sum(squares, scratch + 32) / static_cast<float>(n) + w.eps);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kIndexThreads) {
    values[i] = fmaf(w.gain[i], (k[i] - mean) * factor, w.bias[i]);
  }
  __syncthreads();
  const float* cos_sin = tokens.cos_sin + static_cast<int64_t>(tokens.positions[token]) * d_rope;
  for (int i = static_cast<int>(threadIdx.x); i < d_rope / 2; i += kIndexThreads) {
    rotate_pair(values, cos_sin, i, d_rope, RopeLayout::kHalfSplit);
  }
  __syncthreads();
}

__device__ void store(float value, float* to) {
  *to = value;
}
__device__ void store(float value, uint16_t* to) {
  *to = bf16_bits(value);
}

template <typename T>
__global__ void index_key_kernel(IndexKeyWrite w, TokenPositions tokens, T* keys) {
  __shared__ float values[kMostIndex];
  __shared__ float scratch[64];
  follow_last();
  index_key(w, tokens, values, scratch);
  T* row = keys + tokens.positions[blockIdx.x] * w.d_index;
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(w.d_index); i += kIndexThreads) {
    store(values[i], row + i);
  }
}

__global__ void index_key_int8_kernel(IndexKeyWrite w, TokenPositions tokens, int8_t* codes, float* scales) {
  __shared__ float values[kMostIndex];
  __shared__ float scratch[64];
  __shared__ float scratch_of_largest[32];
  const auto n = static_cast<int>(w.d_index);
  follow_last();
  const int64_t position = tokens.positions[blockIdx.x];
  index_key(w, tokens, values, scratch);
  hadamard_in_block(values, n);
  float largest = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kIndexThreads)
    largest = fmaxf(largest, fabsf(values[i]));
  largest = combine_block(largest, 0.0F, scratch_of_largest, [](float a, float b) { return fmaxf(a, b); });
  const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kIndexThreads) {
    codes[position * n + i] = static_cast<int8_t>(__float2int_rn(values[i] * inverse));
  }
  if (threadIdx.x == 0) scales[position] = largest / 127.0F;
}

void check_index(const IndexKeyWrite& w) {
  if (w.d_index < 1 || w.d_index > kMostIndex || w.d_rope < 0 || w.d_rope > w.d_index || w.d_rope % 2 != 0) {
    throw Error("write_index_keys", "at most 256 values, of which an even number are rotated", "others");
  }
}

template <typename T>
void write_keys(const IndexKeyWrite& w, const TokenPositions& tokens, T* keys, cudaStream_t stream) {
  check_index(w);
  if (tokens.n_tokens == 0) return;
  launch_overlapping(index_key_kernel<T>, "write_index_keys", shape_for(tokens, kIndexThreads, stream), w,
                     tokens, keys);
}

}  // namespace

void write_latent_f32(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream) {
  write_latent<StoreF32>(write, tokens, stream);
}

void write_latent_bf16(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream) {
  write_latent<StoreBf16>(write, tokens, stream);
}

void write_latent_fp8(const LatentWrite& write, const TokenPositions& tokens, cudaStream_t stream) {
  if (write.d_latent % kFp8Group != 0) {
    throw Error("write_latent_fp8", "a multiple of 128 latent values", std::to_string(write.d_latent));
  }
  write_latent<StoreFp8>(write, tokens, stream);
}

void write_index_keys_f32(const IndexKeyWrite& write, const TokenPositions& tokens, float* keys,
                          cudaStream_t stream) {
  write_keys(write, tokens, keys, stream);
}

void write_index_keys_bf16(const IndexKeyWrite& write, const TokenPositions& tokens, uint16_t* keys,
                           cudaStream_t stream) {
  write_keys(write, tokens, keys, stream);
}

void write_index_keys_int8(const IndexKeyWrite& write, const TokenPositions& tokens, int8_t* codes,
                           float* scales, cudaStream_t stream) {
  check_index(write);
  if (!std::has_single_bit(static_cast<uint64_t>(write.d_index))) {
    throw Error("write_index_keys_int8", "a power of two values", std::to_string(write.d_index));
  }
  if (tokens.n_tokens == 0) return;
  launch_overlapping(index_key_int8_kernel, "write_index_keys_int8", shape_for(tokens, kIndexThreads, stream),
                     write, tokens, codes, scales);
}

}  // namespace sluice::cuda
