// The sigmoid router with selection bias and group limit (model formula 2.8, steps 1-5), as
// kernels_cpu/router.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

inline constexpr int64_t kMostExperts = 1024;
inline constexpr int64_t kMostExpertsUsed = 32;
inline constexpr int64_t kMostExpertGroups = 64;

struct RouterParams {
  const float* logits = nullptr;  // [n_tokens, experts], the router's products
  const float* bias = nullptr;    // [experts] or null; decides the choice only
  int64_t n_tokens = 0;
  int64_t experts = 256;
  int64_t experts_used = 8;
  int64_t groups = 8;  // divides experts
  int64_t groups_used = 4;
  bool normalize = true;  // divide the chosen weights by their sum
  float scale = 2.5F;
  int32_t* ids = nullptr;    // [n_tokens, experts_used], ascending by expert
  float* weights = nullptr;  // [n_tokens, experts_used]
};

/// Ties go to the smaller id, a NaN is worse than any number. ids and weights may lie in mapped host memory.
/// The sigmoid is computed in double and rounded, so choices are the CPU's but for one ulp of its own. Throws
/// Error for shapes that cannot be routed and when CUDA refuses the launch. Does not wait.
void route(const RouterParams& params, cudaStream_t stream);

}  // namespace sluice::cuda
