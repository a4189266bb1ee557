// A row of logits reduced to what a sampler chooses from: the likeliest tokens, exactly, and the weight of
// all.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/sampling_plan.h"

namespace sluice::cuda {

struct CandidateSummary {
  uint64_t total;       // weights (token_weight.h) of all n tokens; 0 where none were asked for
  uint32_t is_unusual;  // a NaN or +infinity among the logits: then nothing else is to be used
};

/// Where candidates are written: on the GPU or in page-locked memory.
struct CandidateRow {
  int32_t* ids = nullptr;   // [k], ascending
  float* logits = nullptr;  // [k], of those
  CandidateSummary* summary = nullptr;
};

struct CandidateParams {
  const float* logits = nullptr;  // [n] on the GPU, aligned to 16
  int64_t n = 0;                  // sampling_takes() it
  int64_t k = 1;                  // at most kMostCandidates and n
  double weight_factor = 0;       // of the total (token_weight_factor); 0: none is wanted
  void* scratch = nullptr;        // sampling_scratch(n).bytes of device memory, aligned to 256
  CandidateRow out = {};
};

/// The k tokens of the largest logits; of equal ones those of smaller ids, -0.0 and +0.0 being equal. Some
/// kernels, in the stream; always the same result. Throws Error for impossible parameters and when CUDA
/// refuses a launch. Allocates nothing, does not wait.
void find_candidates(const CandidateParams& params, cudaStream_t stream);

}  // namespace sluice::cuda
