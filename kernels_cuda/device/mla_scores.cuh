// Attention's first half for a tile of rows: scores by mma.sync, then a running softmax. The maximum is
// raised only when a score exceeds it by kSlack, so that the accumulators are seldom rescaled; the result is
// the same but for rounding.
#pragma once

#include "kernels_cuda/device/mla_tiles.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda::device {

inline constexpr float kNoMaximum = -1e30F;  // not -infinity: exp2(-inf - -inf) would be NaN
inline constexpr float kSlack = 8.0F;        // weights stay below 2^8: bf16 is as exact there as below 1

/// Where this thread stands.
template <typename Shape>
struct MlaPlace {
  int lane;
  int warp;
  int team;
  int head_team;
  int row_team;
  int first_head;  // of the team, in the block
  int g;
  int t;

  __device__ __forceinline__ explicit MlaPlace(int thread) : MlaPlace(static_cast<uint32_t>(thread)) {}

 private:
  // Division by a power of two is a shift for unsigned numbers only.
  __device__ __forceinline__ explicit MlaPlace(uint32_t thread)
      : lane(static_cast<int>(thread % 32)),
        warp(static_cast<int>(thread / 32 % kTeamWarps)),
        team(static_cast<int>(thread / (32 * kTeamWarps))),
        head_team(Shape::kHeadTeams == 1 ? 0 : team),
        row_team(Shape::kRowTeams == 1 ? 0 : team),
        first_head(kTeamHeads * head_team),
        g(static_cast<int>(thread % 32 / 4)),
        t(static_cast<int>(thread % 4)) {}
};

/// A quarter of the dimensions of 32 heads, as the A operand of nine products.
struct QueryFragments {
  uint32_t a[2][kDimsPerWarp / 16][4];
};

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

/// Eight values as bf16; aligned to 16 bytes.
__device__ __forceinline__ uint4 load_eight(const float* values) {
  const auto low = __ldg(reinterpret_cast<const float4*>(values));
  const auto high = __ldg(reinterpret_cast<const float4*>(values) + 1);
  return make_uint4(two_bf16(low.x, low.y), two_bf16(low.z, low.w), two_bf16(high.x, high.y),
                    two_bf16(high.z, high.w));
}
__device__ __forceinline__ uint4 load_eight(const __nv_bfloat16* values) {
  return __ldg(reinterpret_cast<const uint4*>(values));
}

/// `queries` begins at the team's first head; heads from `n_heads` on are zeros. Each lane loads whole chunks
/// of eight, of which the four lanes of a head then exchange words: loads of single words would take a
/// decoded token longer than all the rest. What is left over of the chunks, two of each head, is shared by
/// heads g and g + 8.
template <typename Shape, typename T>
__device__ __forceinline__ void load_queries(QueryFragments& q, const T* queries, int n_heads,
                                             const MlaPlace<Shape>& at) {
  constexpr int kFours = kDimsPerWarp / 32;
  static_assert(kDimsPerWarp % 32 == 16);
  const auto load = [&](int head, int chunk) {
    return head < n_heads ? load_eight(queries + head * kRowDims + kDimsPerWarp * at.warp + 8 * chunk)
                          : make_uint4(0, 0, 0, 0);
  };
  const auto exchange = [&](const uint4& chunk) {
    const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    return transpose_words(words, at.t);
  };
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    uint4 chunks[2][kFours];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) chunks[half][i] = load(16 * m + 8 * half + at.g, 4 * i + at.t);
    }
    const uint4 rest = load(16 * m + 8 * (at.t / 2) + at.g, 4 * kFours + at.t % 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const uint4 words = exchange(chunks[half][i]);
        q.a[m][2 * i][half] = words.x;
        q.a[m][2 * i][half + 2] = words.y;
        q.a[m][2 * i + 1][half] = words.z;
        q.a[m][2 * i + 1][half + 2] = words.w;
      }
    }
    const uint4 words = exchange(rest);
    q.a[m][2 * kFours][0] = words.x;
    q.a[m][2 * kFours][2] = words.y;
    q.a[m][2 * kFours][1] = words.z;
    q.a[m][2 * kFours][3] = words.w;
  }
}

/// The place of four scores of a head: chunks are swapped in every other pair of heads, against bank
/// conflicts.
__device__ __forceinline__ int score_chunk(int head, int chunk) {
  return chunk ^ (((head >> 1) & 1) * 2);
}

/// This warp's part of the scores of 32 heads and its team's 16 rows.
struct PartialScores {
  float c[2][2][4];
};

template <typename Shape>
__device__ __forceinline__ PartialScores multiply_queries(MlaShared<Shape>& shared, const QueryFragments& q,
                                                          int tile, const MlaPlace<Shape>& at) {
  PartialScores s{};
  const int row = kTeamRows * at.row_team + at.lane % 8 + at.lane / 16 * 8;
  const uint32_t from = ptx::shared_address(shared.tiles[tile % Shape::kStages][row]) +
                        2 * kDimsPerWarp * at.warp + 16 * (at.lane / 8 % 2);
  constexpr int kSteps = kDimsPerWarp / 16;
  uint32_t b[2][4];  // a step ahead
  ptx::load_matrices(b[0], from);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if (step + 1 < kSteps) {
      ptx::load_matrices(b[(step + 1) % 2], from + 32 * (step + 1));
    }
    const auto& now = b[step % 2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      ptx::mma_bf16(s.c[m][0], q.a[m][step], now[0], now[1]);
      ptx::mma_bf16(s.c[m][1], q.a[m][step], now[2], now[3]);
    }
  }
  return s;
}

template <typename Shape>
__device__ __forceinline__ void write_scores(MlaShared<Shape>& shared, const PartialScores& s,
                                             const MlaPlace<Shape>& at) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = 16 * m + 8 * half + at.g;
        float* to =
            shared.scores[at.team][at.warp][head] + 4 * score_chunk(head, 2 * n + at.t / 2) + at.t % 2 * 2;
        *reinterpret_cast<float2*>(to) = make_float2(s.c[m][n][2 * half], s.c[m][n][2 * half + 1]);
      }
    }
  }
}

/// One head's running softmax; the threads of the head agree on the maximum, each sums its own weights.
struct RunningSoftmax {
  float max = kNoMaximum;
  float sum = 0.0F;
};

/// Scores of a tile to weights in bf16; four rows of one head for each thread.
template <typename Shape>
__device__ __forceinline__ void softmax_tile(MlaShared<Shape>& shared, RunningSoftmax& running, int tile,
                                             float scale_log2) {
  constexpr int kPerHead = Shape::kThreadsPerHead;
  const auto thread = static_cast<uint32_t>(ptx::thread_x_again());
  const int head = static_cast<int>(thread / kPerHead);
  const int part = static_cast<int>(thread % kPerHead);
  const int team = head / kTeamHeads * Shape::kRowTeams + part / 4;
  const int chunk = 4 * score_chunk(head, part % 4);
  float s[4] = {};
#pragma unroll
  for (int warp = 0; warp < kTeamWarps; ++warp) {
    const auto add = *reinterpret_cast<const float4*>(shared.scores[team][warp][head % kTeamHeads] + chunk);
    s[0] += add.x;
    s[1] += add.y;
    s[2] += add.z;
    s[3] += add.w;
  }
  const auto mask = *reinterpret_cast<const float4*>(shared.mask[tile % (2 * Shape::kStages)] + 4 * part);
  s[0] = fmaf(s[0], scale_log2, mask.x);
  s[1] = fmaf(s[1], scale_log2, mask.y);
  s[2] = fmaf(s[2], scale_log2, mask.z);
  s[3] = fmaf(s[3], scale_log2, mask.w);
  float largest = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
#pragma unroll
  for (int distance = 1; distance < kPerHead; distance *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
  }
  const float raised = largest > running.max + kSlack ? largest : running.max;
  // 1 where it is not raised. Nothing is summed yet where there was no maximum: for few queries, whose first
  // tile is much of all, it is not rescaled.
  const bool is_first = !Shape::kIsRing && running.max == kNoMaximum;
  const float rescale = is_first ? 1.0F : ptx::fast_exp2(running.max - raised);
  running.max = raised;
  running.sum *= rescale;
#pragma unroll
  for (float& value : s) {
    value = ptx::fast_exp2(value - raised);
    running.sum += value;
  }
  *reinterpret_cast<uint2*>(shared.weights[tile % 2][head] + 8 * part) =
      make_uint2(two_bf16(s[0], s[1]), two_bf16(s[2], s[3]));
  if (part == 0) {
    shared.rescale[tile % 2][head] = rescale;
  }
}

/// The inverse sums of weights to shared memory, log-sum-exp to `log_sum_exp` where there is one.
template <typename Shape>
__device__ __forceinline__ void finish_softmax(MlaShared<Shape>& shared, RunningSoftmax running, int heads,
                                               float* log_sum_exp, float to_base) {
#pragma unroll
  for (int distance = 1; distance < Shape::kThreadsPerHead; distance *= 2) {
    running.sum += __shfl_xor_sync(0xFFFFFFFFU, running.sum, distance);
  }
  const int head = static_cast<int>(threadIdx.x / Shape::kThreadsPerHead);
  if (threadIdx.x % Shape::kThreadsPerHead == 0) {
    // A sum is 1 or more, a weight of the running maximum's own being in it, or there are no rows.
    shared.inverse_sum[head] = running.sum > 0.0F ? ptx::fast_reciprocal(running.sum) : 0.0F;
    if (log_sum_exp != nullptr && head < heads) {
      log_sum_exp[head] =
          running.sum > 0.0F ? (running.max + ptx::fast_log2(running.sum)) * to_base : -INFINITY;
    }
  }
}

}  // namespace sluice::cuda::device
