// Element by element: SwiGLU, additions, rounding to bf16, where experts lie.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

/// out[i] = silu(gate[i]) * up[i], i < n; out may be either. Throws Error when CUDA refuses the launch, as do
/// all calls here; none waits. All arrays lie on the GPU.
void swiglu(const float* gate, const float* up, int64_t n, float* out, cudaStream_t stream);

/// y[i] += factor * x[i], i < n.
void add_scaled(const float* x, float factor, int64_t n, float* y, cudaStream_t stream);

/// y[r][i] = bf16(x[r][i]), to nearest with ties to even. Strides in elements.
struct Bf16Rows {
  const float* x = nullptr;  // [rows, n]
  int64_t x_stride = 0;
  uint16_t* y = nullptr;  // [rows, n]
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t n = 0;
};
void to_bf16(const Bf16Rows& rows, cudaStream_t stream);

/// The experts' outputs summed for their tokens (model formula 2.8, step 6): for each token
/// y[t] += sum over its choices k, ascending, of weights[t][k] * parts[slots[t][k]]; a slot of -1 has no part
/// here.
struct ExpertSum {
  const float* parts = nullptr;    // [slots, n]
  const int32_t* slots = nullptr;  // [n_tokens, used]
  const float* weights = nullptr;  // [n_tokens, used]
  float* y = nullptr;              // [n_tokens, n]
  int64_t n_tokens = 0;
  int64_t used = 0;
  int64_t n = 0;
};
void add_experts(const ExpertSum& sum, cudaStream_t stream);

/// Which of the experts that tokens chose lie in slots of the GPU's memory: for each choice c
/// slots[c] = slot_of[ids[c]], and parts[c] = c, or -1 where that slot is below 0: what ExpertSum takes.
struct SlotLookup {
  const int32_t* ids = nullptr;      // [choices]
  const int32_t* slot_of = nullptr;  // [experts], -1 for those that are elsewhere
  int32_t* slots = nullptr;          // [choices]
  int32_t* parts = nullptr;          // [choices]
  int64_t choices = 0;
};
void find_slots(const SlotLookup& lookup, cudaStream_t stream);

}  // namespace sluice::cuda
