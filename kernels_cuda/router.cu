#include "kernels_cuda/router.h"

#include <cfloat>
#include <cmath>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 32;  // a warp for each token
constexpr float kWorst = -FLT_MAX;

__device__ float taken() {
  return __int_as_float(static_cast<int>(0xFF800000U));  // -infinity: no candidate any more
}

/// A NaN or -infinity is worse than any other score but can be chosen.
__device__ float comparable(float score) {
  return score > kWorst ? score : kWorst;
}

struct Best {
  float value;
  int index;
};

/// The largest of values [0, n), the first of equals; the same in every lane.
__device__ Best largest(const float* values, int n) {
  Best best{taken(), n};
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    if (values[i] > best.value || best.index == n) best = {values[i], i};
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const Best other{__shfl_xor_sync(0xFFFFFFFFU, best.value, lanes),
                     __shfl_xor_sync(0xFFFFFFFFU, best.index, lanes)};
    if (other.value > best.value || (other.value == best.value && other.index < best.index)) best = other;
  }
  return best;
}

/// The sum of the two largest values (of the one, when it is alone).
__device__ float group_score(const float* group, int size) {
  float first = taken();
  float second = taken();
  for (int i = 0; i < size; ++i) {
    const float value = group[i];
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  return comparable(size == 1 ? first : first + second);
}

/// Takes all experts outside the best groups out of the choice.
__device__ void limit_groups(const RouterParams& p, float* choice, float* scores) {
  const auto size = static_cast<int>(p.experts / p.groups);
  const auto groups = static_cast<int>(p.groups);
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) {
    scores[g] = group_score(choice + g * size, size);
  }
  __syncwarp();
  for (int i = 0; i < static_cast<int>(p.groups_used); ++i) {
    const Best best = largest(scores, groups);
    __syncwarp();
    if (threadIdx.x == 0) scores[best.index] = taken();
    __syncwarp();
  }
  // What is left in scores are the groups to drop.
  for (int e = static_cast<int>(threadIdx.x); e < static_cast<int>(p.experts); e += kThreads) {
    if (scores[e / size] != taken()) choice[e] = taken();
  }
  __syncwarp();
}

__global__ void route_kernel(RouterParams p) {
  __shared__ float scores[kMostExperts];
  __shared__ float choice[kMostExperts];
  __shared__ float groups[kMostExpertGroups];
  __shared__ int chosen[kMostExpertsUsed];
  const int64_t token = blockIdx.x;
  const auto experts = static_cast<int>(p.experts);
  const auto used = static_cast<int>(p.experts_used);
  follow_last();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    const double logit = p.logits[token * p.experts + e];
    scores[e] = 1.0F / (1.0F + static_cast<float>(exp(-logit)));
    choice[e] = comparable(p.bias == nullptr ? scores[e] : scores[e] + p.bias[e]);
  }
  __syncwarp();
  if (p.groups_used < p.groups) limit_groups(p, choice, groups);
  for (int i = 0; i < used; ++i) {
    const Best best = largest(choice, experts);
    __syncwarp();
    if (threadIdx.x == 0) {
      choice[best.index] = taken();
      int at = i;  // insertion keeps the ids ascending
      for (; at > 0 && chosen[at - 1] > best.index; --at) chosen[at] = chosen[at - 1];
      chosen[at] = best.index;
    }
    __syncwarp();
  }
  float sum = 0.0F;
  for (int i = 0; i < used; ++i) sum += scores[chosen[i]];
  // The tiny term keeps a token whose every score underflowed at weight 0 instead of NaN.
  const float factor = p.normalize ? p.scale / (sum + 1e-20F) : p.scale;
  for (int i = static_cast<int>(threadIdx.x); i < used; i += kThreads) {
    p.ids[token * used + i] = chosen[i];
    p.weights[token * used + i] = scores[chosen[i]] * factor;
  }
}

}  // namespace

void route(const RouterParams& p, cudaStream_t stream) {
  const bool right = p.experts >= 1 && p.experts <= kMostExperts && p.groups >= 1 &&
                     p.groups <= kMostExpertGroups && p.experts % p.groups == 0 && p.groups_used >= 1 &&
                     p.groups_used <= p.groups && p.experts_used >= 1 && p.experts_used <= kMostExpertsUsed &&
                     p.experts_used <= p.experts / p.groups * p.groups_used;
  if (!right) throw Error("router", "at most 1024 experts in equal groups that hold the chosen", "others");
  if (p.n_tokens == 0) return;
  launch_overlapping(
      route_kernel, "route",
      {.grid = dim3(static_cast<unsigned>(p.n_tokens)), .block = dim3(kThreads), .stream = stream}, p);
}

}  // namespace sluice::cuda
