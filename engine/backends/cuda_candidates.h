// A sampler's candidates from a row of logits on the GPU, in page-locked memory.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/logit_candidates.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/sampling.h"

namespace sluice {

class CudaCandidates {
 public:
  /// Throws Error when memory cannot be had. It takes none of a GPU.
  CudaCandidates();

  /// logits [n] on the GPU; scratch cuda::sampling_scratch(n).bytes. Waits for the stream. None where logits
  /// are no numbers, all are -infinity, or they are too many for the kernels: whoever gets all of them says
  /// so.
  [[nodiscard]] std::optional<LogitCandidates> find(const float* logits, int64_t n,
                                                    const CandidateRequest& request, std::byte* scratch,
                                                    const cuda::Stream& stream) const;

 private:
  cuda::PinnedBuffer<int32_t> ids_;
  cuda::PinnedBuffer<float> logits_;
  cuda::PinnedBuffer<cuda::CandidateSummary> summary_;
};

}  // namespace sluice
