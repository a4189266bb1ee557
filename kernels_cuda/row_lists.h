// Rows that a list names: taken out, and sums added back, for experts that see some tokens of a batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

/// y[i] = float(x[list[i]]), i < rows. `list` and `y` on the GPU or in page-locked memory.
struct GatheredRows {
  const uint16_t* x = nullptr;    // bf16 [any, n], on the GPU
  const int32_t* list = nullptr;  // [rows]
  float* y = nullptr;             // [rows, n]
  int64_t rows = 0;
  int64_t n = 0;  // a multiple of 4
};
/// Throws Error for shapes that are not as said and when CUDA refuses the launch, as do all calls here; none
/// waits. Pointers aligned to 16 bytes, those of lists to 4.
void gather_rows(const GatheredRows& rows, cudaStream_t stream);

/// y[list[i]] += x[i], i < rows. No row is named twice. `x` and `list` on the GPU or in page-locked memory.
struct AddedRows {
  const float* x = nullptr;       // [rows, n]
  const int32_t* list = nullptr;  // [rows]
  float* y = nullptr;             // [any, n], on the GPU
  int64_t rows = 0;
  int64_t n = 0;  // a multiple of 4
};
void add_rows(const AddedRows& rows, cudaStream_t stream);

/// Of the experts' outputs those of slots [first_slot, first_slot + count), summed for their tokens:
/// y[t] += sum over k, ascending, of weights[t][k] * parts[slots[t][k] - first_slot]. A slot outside the
/// range (-1 is) adds nothing, and a token without others keeps its y. All on the GPU.
struct SlotSum {
  const float* parts = nullptr;  // [count, n]
  int64_t first_slot = 0;
  int64_t count = 0;
  const int32_t* slots = nullptr;  // [n_tokens, used]
  const float* weights = nullptr;  // [n_tokens, used]
  float* y = nullptr;              // [n_tokens, n]
  int64_t n_tokens = 0;
  int64_t used = 0;  // at most 32
  int64_t n = 0;     // a multiple of 4
};
void add_slots(const SlotSum& sum, cudaStream_t stream);

}  // namespace sluice::cuda
