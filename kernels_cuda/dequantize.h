// Panels (quant/panel.h) back to rows of numbers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "quant/panel.h"

namespace sluice::cuda {

/// out[r][k] = value of row 16 * panel_begin + r, r < 16 * panels, without w.scale; rows beyond the last are
/// zeros. Every weight type, the bits of quant::dequantize_row (bf16: of that rounded to nearest, ties to
/// even). `stride` in elements, a multiple of 4; out aligned to 16 bytes. Throws Error for other types and
/// when CUDA refuses the launch, as do all calls here; none waits. w.data and out lie on the GPU.
struct PanelRange {
  int64_t begin = 0;
  int64_t count = 0;
};
void dequantize_f32(const quant::PanelView& w, PanelRange panels, float* out, int64_t stride,
                    cudaStream_t stream);
void dequantize_bf16(const quant::PanelView& w, PanelRange panels, uint16_t* out, int64_t stride,
                     cudaStream_t stream);

/// out[t] = w.scale times row ids[t]: the embedding of n tokens. ids on the GPU, each below w.rows. As
/// dequantize_f32 otherwise.
void embed(const quant::PanelView& w, const int32_t* ids, int64_t n, float* out, int64_t stride,
           cudaStream_t stream);

}  // namespace sluice::cuda
