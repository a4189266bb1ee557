#include "kernels_cuda/topk_plan.h"

namespace sluice::cuda {

bool top_k_rows_are_few(int64_t n_rows) {
  return n_rows <= kFewTopKRows;
}

bool top_k_collects(int64_t n_rows, int64_t most_scores) {
  return top_k_rows_are_few(n_rows) && most_scores > kFewTopKCapacity;
}

int64_t top_k_scratch_bytes(int64_t n_rows, int64_t most_scores) {
  if (!top_k_collects(n_rows, most_scores)) {
    return 0;
  }
  const int64_t chunks = (most_scores + kTopKChunk - 1) / kTopKChunk;
  return n_rows * chunks * (kTopKChunk * kTopKCandidateBytes + kTopKSummaryBytes);
}

}  // namespace sluice::cuda
