// Candidates of a row of logits: the largest by an atomic maximum of key and index, weights as integers by an
// atomic sum, so that neither depends on an order; the k largest by the top-k of attention. Compiled without
// fused products and sums: weights have the host's bits.
#include "kernels_cuda/sampling.h"

#include <algorithm>
#include <cfloat>
#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"
#include "kernels_cuda/device/topk_search.cuh"
#include "kernels_cuda/token_weight.h"
#include "kernels_cuda/topk.h"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPerThread = 4;  // logits

__constant__ constexpr TokenWeightPowers kPowers = make_token_weight_powers();

/// Zeros before a row.
struct State {
  unsigned long long best;  // key above, reversed index below: the larger number is the better choice
  unsigned long long total;
  uint32_t is_unusual;
};

__device__ __forceinline__ int32_t best_id(const State& state) {
  return static_cast<int32_t>(0xFFFFFFFFU - static_cast<uint32_t>(state.best));
}

__global__ void __launch_bounds__(kThreads)
    find_largest(const float* logits, int n, State* state, int32_t* length) {
  __shared__ unsigned long long scratch[32];
  unsigned long long best = 0;
  bool is_unusual = false;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    const float logit = logits[i];
    is_unusual |= !(logit <= FLT_MAX);
    const auto key = static_cast<unsigned long long>(device::order_key(logit));
    best = max(best, key << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(i)));
  }
  best = combine_block(best, 0ULL, scratch, [](auto a, auto b) { return a > b ? a : b; });
  const bool any_unusual = __syncthreads_or(is_unusual ? 1 : 0) != 0;
  if (threadIdx.x != 0) return;
  atomicMax(&state->best, best);
  if (any_unusual) atomicOr(&state->is_unusual, 1U);
  if (blockIdx.x == 0) *length = n;
}

__global__ void __launch_bounds__(kThreads)
    sum_weights(const float* logits, int n, double factor, State* state) {
  __shared__ unsigned long long scratch[32];
  const auto largest = static_cast<double>(logits[best_id(*state)]);
  unsigned long long sum = 0;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x) * kThreads) {
    sum += token_weight((largest - static_cast<double>(logits[i])) * factor, kPowers);
  }
  sum = combine_block(sum, 0ULL, scratch, [](auto a, auto b) { return a + b; });
  if (threadIdx.x == 0) atomicAdd(&state->total, sum);
}

/// One block. `selected` is null where the largest is the only candidate.
__global__ void __launch_bounds__(kThreads) write_candidates(const float* logits, int k, const State* state,
                                                             const int32_t* selected, CandidateRow out) {
  for (int i = static_cast<int>(threadIdx.x); i < k; i += kThreads) {
    const int32_t id = selected == nullptr ? best_id(*state) : selected[i];
    out.ids[i] = id;
    out.logits[i] = logits[id];
  }
  if (threadIdx.x == 0) *out.summary = {state->total, state->is_unusual};
}

void check_params(const CandidateParams& p) {
  if (!sampling_takes(p.n) || p.k < 1 || p.k > std::min(p.n, kMostCandidates) || !(p.weight_factor >= 0)) {
    throw Error("candidates on the GPU",
                "1 to " + std::to_string(kMostCandidates) + " of at most " + std::to_string(kMostTopKScores) +
                    " logits",
                std::to_string(p.k) + " of " + std::to_string(p.n));
  }
}

}  // namespace

void find_candidates(const CandidateParams& p, cudaStream_t stream) {
  check_params(p);
  const SamplingScratch at = sampling_scratch(p.n);
  auto* const scratch = static_cast<std::byte*>(p.scratch);
  auto* const state = reinterpret_cast<State*>(scratch);
  auto* const length = reinterpret_cast<int32_t*>(scratch + at.lengths);
  auto* const selected = reinterpret_cast<int32_t*>(scratch + at.selected);
  const auto n = static_cast<int>(p.n);
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(p.n, kThreads * kPerThread));
  check(cudaMemsetAsync(state, 0, sizeof(State), stream), "candidates on the GPU");
  const LaunchShape shape{.grid = dim3(blocks), .block = dim3(kThreads), .stream = stream};
  launch_kernel(find_largest, "find_largest", shape, p.logits, n, state, length);
  if (p.weight_factor > 0) {
    launch_kernel(sum_weights, "sum_weights", shape, p.logits, n, p.weight_factor, state);
  }
  if (p.k > 1) {
    launch_top_k({.scores = p.logits,
                  .score_stride = ceil_div<int64_t>(p.n, 4) * 4,
                  .n_rows = 1,
                  .lengths = length,
                  .most_scores = p.n,
                  .k = p.k,
                  .selected = selected,
                  .counts = reinterpret_cast<int32_t*>(scratch + at.counts),
                  .scratch = scratch + at.top_k},
                 stream);
  }
  launch_kernel(write_candidates, "write_candidates",
                {.grid = dim3(1), .block = dim3(kThreads), .stream = stream}, p.logits, static_cast<int>(p.k),
                state, p.k > 1 ? selected : nullptr, p.out);
}

}  // namespace sluice::cuda
