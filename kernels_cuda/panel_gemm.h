// Products of panels with many tokens, decoded to bf16 in registers: for one matrix or for the experts of a
// layer, each with its own tokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "quant/panel.h"

namespace sluice::cuda {

/// One matrix for each expert, alike in shape, type and scale's place; expert e's panels start e *
/// expert_bytes after the first's. All on the GPU.
struct ExpertPanels {
  quant::PanelView first;  // scale is not looked at
  int64_t expert_bytes = 0;
  const float* scales = nullptr;  // [experts] second-level scales, or null for 1
  int64_t experts = 1;
};

/// For expert e and slots s in [begins[e], begins[e + 1]): y[s][r] = bf16(row r of expert e) . x[tokens[s]],
/// sums of float32, times the expert's scale.
struct PanelGemm {
  ExpertPanels w;
  const uint16_t* x = nullptr;      // bf16 [any, cols], rows at multiples of 16 bytes
  int64_t x_stride = 0;             // in elements
  const int32_t* begins = nullptr;  // [experts + 1]
  const int32_t* tokens = nullptr;  // [slots] or null: slot s multiplies row s of x
  int64_t slots = 0;                // begins[experts], known to the host
  float* y = nullptr;               // [slots, rows]
  int64_t y_stride = 0;
};

/// True for the quantized types: all but F32, F16 and BF16.
bool panel_gemm_takes(quant::DType dtype);

/// Throws Error for other types and alignments, and when CUDA refuses the launch. Does not wait. Bits do not
/// depend on other tokens or experts.
void panel_gemm(const PanelGemm& gemm, cudaStream_t stream);

}  // namespace sluice::cuda
