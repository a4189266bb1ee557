#include "engine/backends/cuda_candidates.h"

#include <algorithm>
#include <limits>

#include "kernels_cuda/token_weight.h"

namespace sluice {

static_assert(kMostCandidateTokens <= cuda::kMostCandidates);

CudaCandidates::CudaCandidates() : ids_(kMostCandidateTokens), logits_(kMostCandidateTokens), summary_(1) {}

std::optional<LogitCandidates> CudaCandidates::find(const float* logits, int64_t n,
                                                    const CandidateRequest& request, std::byte* scratch,
                                                    const cuda::Stream& stream) const {
  if (!cuda::sampling_takes(n)) {
    return {};
  }
  const int64_t k = std::min(request.count, n);
  cuda::find_candidates({.logits = logits,
                         .n = n,
                         .k = k,
                         .weight_factor = request.wants_total ? token_weight_factor(request.temperature) : 0,
                         .scratch = scratch,
                         .out = {ids_.data(), logits_.data(), summary_.data()}},
                        stream.get());
  stream.synchronize();
  const float* const found = logits_.data();
  if (summary_.data()->is_unusual != 0 ||
      *std::max_element(found, found + k) == -std::numeric_limits<float>::infinity()) {
    return {};
  }
  return LogitCandidates{
      .ids = {ids_.data(), ids_.data() + k}, .logits = {found, found + k}, .total = summary_.data()->total};
}

}  // namespace sluice
