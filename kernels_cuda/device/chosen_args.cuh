// What the kernels of chosen experts are told (kernels_cuda/chosen_experts.h).
#pragma once

#include <cstdint>

#include "kernels_cuda/chosen_experts.h"

namespace sluice::cuda {

/// One matrix for each expert.
struct ChosenMatrix {
  const unsigned char* panels;  // of expert 0
  int64_t expert_bytes;
  const float* scales;  // [experts], or null for 1
};

/// What becomes of the products.
enum class ChosenResult {
  kProduct,    // y = matrices[0] . x
  kGateAndUp,  // y = silu(matrices[0] . x) * (matrices[1] . x)
  kTimesSilu   // y = silu(y) * (matrices[0] . x)
};

/// What becomes what.
enum class ChosenStart {
  kBehindLast,  // nothing is there before the last kernel of the stream has ended
  kBehindSelf   // the last kernel was one of these with the same ids: weights are read while it ends
};

struct ChosenArgs {
  ChosenMatrix matrices[2];
  ChosenResult result;
  ChosenStart start;
  int64_t panel_bytes;
  int64_t scales_at;
  int panels;  // of a matrix
  int rows;
  int cols;
  const int32_t* ids;  // [choices]
  int choices;         // at most kMostChosen
  int choices_of_x;    // that share a row of x, one after the other
  const float* x;      // [choices / choices_of_x, cols]
  float* y;            // [choices, rows]

  // Of device/chosen_stream.cuh:
  int steps;   // along the columns
  int shares;  // jobs that a panel is: 2^share_bits
  int share_bits;
  int steps_per_share;  // the last ones fewer, or none
  int stage_rows;       // rows of x in shared memory at once
  uint32_t zeros[4];    // AccumulatorStart
};

__device__ __forceinline__ float scale_of(const ChosenMatrix& matrix, int64_t expert) {
  return matrix.scales == nullptr ? 1.0F : __ldg(matrix.scales + expert);
}

}  // namespace sluice::cuda
