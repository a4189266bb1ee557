// The experts that few tokens chose (model formula 2.8, step 5): each choice of a token meets that expert's
// matrices.
//
// Quantized matrices: products as those of gemv.h, of the same precision. Float matrices (F32, F16, BF16):
// float32 fused multiply-adds. A matrix is read once for each token that chose it. Results are the same bits
// on every run, and a token's do not depend on the others.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/panel_gemm.h"

namespace sluice::cuda {

/// Choices of a launch.
inline constexpr int64_t kMostChosen = 128;

/// y[t][k] = down . (silu(gate . x[t]) * (up . x[t])) with the matrices of expert ids[t][k]. Where that is
/// below 0 nothing is read, and hidden and y keep what they have. Everything lies on the GPU; arrays of
/// floats are aligned to 16 bytes and do not overlap.
struct ChosenExperts {
  ExpertPanels gate;             // each [d_expert, d_model]
  ExpertPanels up;               // each [d_expert, d_model]
  ExpertPanels down;             // each [d_model, d_expert]
  const int32_t* ids = nullptr;  // [n_tokens, used]
  int64_t used = 0;              // at most kMostChosen
  int64_t n_tokens = 0;
  const float* x = nullptr;  // [n_tokens, d_model]
  float* hidden = nullptr;   // [n_tokens, used, d_expert]: the activations between
  float* y = nullptr;        // [n_tokens, used, d_model]
};

/// Two launches where gate and up have one quantized type, else three, for up to kMostChosen choices at a
/// time. d_model and d_expert are multiples of 32, and at most 21,536 where they are columns of a quantized
/// matrix. Throws Error for shapes, types and alignments that are not as said here, and when CUDA refuses a
/// launch. Does not wait.
void chosen_experts(const ChosenExperts& experts, cudaStream_t stream);

}  // namespace sluice::cuda
