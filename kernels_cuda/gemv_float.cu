// GEMV of F32, F16 and BF16 panels: float32 fused multiply-adds. A lane holds a word of four rows (of BF16
// two columns, else one), eight words of a panel are a warp's step.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {
namespace {

constexpr int kStepWords = 8;
constexpr int kStageFloats = 4096;  // activations in shared memory at once, of all tokens

struct WordsF32 {
  static constexpr int kCols = 1;  // of a word
  static constexpr int kDepth = 4;
  using Raw = uint4;
  static __device__ Raw load(const unsigned char* panel, int64_t word, int quad) {
    return __ldg(reinterpret_cast<const uint4*>(panel + word * 64) + quad);
  }
  static __device__ void values(const Raw& raw, float (&w)[1][4]) {
    w[0][0] = __uint_as_float(raw.x);
    w[0][1] = __uint_as_float(raw.y);
    w[0][2] = __uint_as_float(raw.z);
    w[0][3] = __uint_as_float(raw.w);
  }
};

struct WordsF16 {
  static constexpr int kCols = 1;
  static constexpr int kDepth = 8;
  using Raw = uint2;
  static __device__ Raw load(const unsigned char* panel, int64_t word, int quad) {
    return __ldg(reinterpret_cast<const uint2*>(panel + word * 32) + quad);
  }
  static __device__ void values(const Raw& raw, float (&w)[1][4]) {
    const float2 low = halves_to_floats(raw.x);
    const float2 high = halves_to_floats(raw.y);
    w[0][0] = low.x;
    w[0][1] = low.y;
    w[0][2] = high.x;
    w[0][3] = high.y;
  }
};

struct WordsBF16 {
  static constexpr int kCols = 2;
  static constexpr int kDepth = 4;
  using Raw = uint4;
  static __device__ Raw load(const unsigned char* panel, int64_t word, int quad) {
    return WordsF32::load(panel, word, quad);
  }
  static __device__ void values(const Raw& raw, float (&w)[2][4]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      w[0][r] = __uint_as_float(words[r] << 16);
      w[1][r] = __uint_as_float(words[r] & 0xFFFF0000U);
    }
  }
};

/// Columns [first, first + count) of every token, zeros beyond the last column. x [token][count rounded up].
template <int kTokens>
__device__ void load_floats(const GemvArgs& args, int first, int count, float* x) {
  for (int token = 0; token < args.n_tokens; ++token) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kGemvThreads) {
      x[token * (kStageFloats / kTokens) + i] =
          first + i < args.cols ? args.x[token * args.x_stride + first + i] : 0.0F;
    }
  }
}

template <class Words, int kTokens>
__device__ void multiply_words(const unsigned char* panel, int first_word, int words, const float* x,
                               float (&sums)[kTokens][4]) {
  const int quad = static_cast<int>(threadIdx.x) % 4;
  const int mine = static_cast<int>(threadIdx.x) % 32 / 4;
  for (int begin = mine; begin < words; begin += kStepWords * Words::kDepth) {
    typename Words::Raw raw[Words::kDepth];
#pragma unroll
    for (int i = 0; i < Words::kDepth; ++i) {
      raw[i] = Words::load(panel, first_word + min(begin + i * kStepWords, words - 1), quad);
    }
#pragma unroll
    for (int i = 0; i < Words::kDepth; ++i) {
      const int word = begin + i * kStepWords;
      if (word >= words) continue;
      float w[Words::kCols][4];
      Words::values(raw[i], w);
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
#pragma unroll
        for (int c = 0; c < Words::kCols; ++c) {
          const float value = x[token * (kStageFloats / kTokens) + word * Words::kCols + c];
#pragma unroll
          for (int r = 0; r < 4; ++r) sums[token][r] = fmaf(w[c][r], value, sums[token][r]);
        }
      }
    }
  }
}

template <class Words, int kTokens>
__global__ void __launch_bounds__(kGemvThreads, kTokens <= 2 ? 4 : 2)
    gemv_float_kernel(const __grid_constant__ GemvArgs args) {
  constexpr int kStageWords = kStageFloats / kTokens / Words::kCols;
  __shared__ float x[kStageFloats];
  __shared__ __align__(16) float out[kTokens * kGroupRows];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = static_cast<int>(blockIdx.y) * args.steps_per_slice * kStepWords;
  const int all = (args.cols + Words::kCols - 1) / Words::kCols;
  const int end = min(begin + args.steps_per_slice * kStepWords, all);
  follow_last();
  for (int group = static_cast<int>(blockIdx.x); group < args.groups; group += static_cast<int>(gridDim.x)) {
    const unsigned char* panel = panel_of(args, group, warp);
    float sums[kTokens][4] = {};
    for (int first = begin; first < end; first += kStageWords) {
      const int count = min(kStageWords, end - first);
      __syncthreads();
      load_floats<kTokens>(args, first * Words::kCols, count * Words::kCols, x);
      __syncthreads();
      if (panel != nullptr) multiply_words<Words, kTokens>(panel, first, count, x, sums);
    }
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) {
          sums[token][r] += __shfl_xor_sync(0xFFFFFFFFU, sums[token][r], lanes);
        }
      }
      if (threadIdx.x % 32 < 4 && token < args.n_tokens) {
        *reinterpret_cast<float4*>(out + token * kGroupRows + warp * 16 + threadIdx.x % 4 * 4) = {
            sums[token][0], sums[token][1], sums[token][2], sums[token][3]};
      }
    }
    finish_group(args, group, out);
    __syncthreads();
  }
}

template <class Words>
void launch_float(const GemvArgs& args, dim3 grid, cudaStream_t stream) {
  const auto run = [&](auto* kernel) {
    launch_overlapping(kernel, "gemv", {.grid = grid, .block = dim3(kGemvThreads), .stream = stream}, args);
  };
  if (args.n_tokens == 1) {
    run(gemv_float_kernel<Words, 1>);
  } else if (args.n_tokens == 2) {
    run(gemv_float_kernel<Words, 2>);
  } else if (args.n_tokens <= 4) {
    run(gemv_float_kernel<Words, 4>);
  } else {
    run(gemv_float_kernel<Words, 8>);
  }
}

}  // namespace

const GemvFormat kGemvF32{launch_float<WordsF32>, kStepWords* WordsF32::kCols, 4, nullptr, nullptr, 0, 0};
const GemvFormat kGemvF16{launch_float<WordsF16>, kStepWords* WordsF16::kCols, 4, nullptr, nullptr, 0, 0};
const GemvFormat kGemvBF16{launch_float<WordsBF16>, kStepWords* WordsBF16::kCols, 4, nullptr, nullptr, 0, 0};

}  // namespace sluice::cuda
