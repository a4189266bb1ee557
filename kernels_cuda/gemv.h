// Products of panels (quant/panel.h, the same bytes that the CPU reads) with one to eight tokens.
//
// Quantized weights: x is split, 32 columns at a time, into four signed bytes with a common power of two,
// which holds 30 bits of the largest of the 32: finer than the float32 it came from. Byte products are exact
// (mma.m16n8k32 of int8), every weight scale's sum is then accumulated in float32. So an element's error is
// that of float32 accumulation plus 2^-30 of the block's largest |x| for each weight. Blocks whose |x| stay
// below 2^-96 lose bits; a NaN or an infinity makes its whole block NaN. Float weights (F32, F16, BF16):
// float32 fused multiply-adds.
//
// Results are the same bits on every run; one token, two tokens, and more take an order of sums each.
//
// On sm_90 and newer a call's kernel may begin, and read its weights, while the kernel before it in the
// stream runs: that one must not write the weights (copies and other streams' work before an event are waited
// for as ever).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/gemv_plan.h"
#include "quant/panel.h"

namespace sluice::cuda {

inline constexpr int64_t kMostGemvTokens = 8;
inline constexpr int64_t kMostGemvProducts = 4;

/// Activations on the GPU.
struct GemvInput {
  const float* x = nullptr;  // [n_tokens, cols], 16-byte aligned
  int64_t stride = 0;        // floats from row to row, a multiple of 4
  int64_t n_tokens = 0;      // in [1, kMostGemvTokens]
};

/// y[t][r] = w.scale * (row r of w) . x[t]. `w.data` and `y` lie on the GPU; y must not overlap the inputs.
struct GemvProduct {
  quant::PanelView w;
  float* y = nullptr;  // [n_tokens, w.rows]
  int64_t stride = 0;  // floats from row to row of y
};

/// Partial sums and counters of products that are split over blocks. One call at a time may use it: calls in
/// one stream, or in streams that wait for each other.
class GemvScratch {
 public:
  /// For matrices of this thread's GPU, up to `rows` rows in all products of a call. Throws Error.
  explicit GemvScratch(int64_t rows);

  [[nodiscard]] int64_t multiprocessors() const { return multiprocessors_; }
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] float* partials() const { return partials_.data(); }
  [[nodiscard]] uint32_t* arrived() const { return arrived_.data(); }

 private:
  int64_t rows_;
  int64_t multiprocessors_ = 0;
  DeviceBuffer<float> partials_;
  DeviceBuffer<uint32_t> arrived_;  // zero between calls
};

/// True for the types that gemv and gemv_swiglu take.
bool gemv_takes(quant::DType dtype);

/// All products in one launch, at most kMostGemvProducts; their w have one type and one width. Throws Error
/// when a shape, a type or an alignment is not as said here, or when the launch fails. Does not wait.
void gemv(std::span<const GemvProduct> products, const GemvInput& input, const GemvScratch& scratch,
          cudaStream_t stream);

/// y[t][r] = silu(gate row r . x[t]) * (up row r . x[t]), both with their scales; gate and up have the same
/// shape and type.
void gemv_swiglu(const quant::PanelView& gate, const GemvProduct& up, const GemvInput& input,
                 const GemvScratch& scratch, cudaStream_t stream);

}  // namespace sluice::cuda
