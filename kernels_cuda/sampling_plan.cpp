#include "kernels_cuda/sampling_plan.h"

#include "kernels_cuda/topk_plan.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

bool sampling_takes(int64_t n) {
  return n >= 1 && n <= kMostTopKScores;
}

SamplingScratch sampling_scratch(int64_t n) {
  if (!sampling_takes(n)) {
    return {};
  }
  SamplingScratch at{.lengths = kAlignment, .counts = 2 * kAlignment, .selected = 3 * kAlignment};
  at.top_k = at.selected + kMostCandidates * static_cast<int64_t>(sizeof(int32_t));
  at.bytes = at.top_k + top_k_scratch_bytes(1, n);
  return at;
}

}  // namespace sluice::cuda
