#include "engine/backends/gpu_working_memory.h"

#include <algorithm>

#include "engine/backends/cuda_activations.h"

namespace sluice {
namespace {

// Of experts, at most: where their choices begin, scales, and rounding.
constexpr int64_t kStreamedTables = int64_t{64} << 10;
// GEMV's partial sums, and cuBLAS: 32 MiB of workspace and its kernels. Chosen, generously.
constexpr int64_t kGemvBytes = int64_t{16} << 20;
constexpr int64_t kBlasBytes = int64_t{160} << 20;

int64_t activation_bytes(const CudaActivationShape& shape) {
  DeviceLayout counted;
  static_cast<void>(CudaActivations(shape, counted));
  return counted.taken();
}

int64_t product_bytes(const CudaProductShape& shape) {
  const int64_t bf16 = shape.max_tokens * (shape.cols + 8) * 2 + kDecodedBytes;
  return kGemvBytes + (rounds(shape) ? bf16 : 0);
}

}  // namespace

bool rounds(const CudaExpertShape& shape) {
  return shape.rounding == CudaRounding::kAllowed && shape.max_tokens > kFewExpertTokens;
}

bool rounds(const CudaProductShape& shape) {
  return shape.rounding == CudaRounding::kAllowed && shape.max_tokens > kMostExactTokens;
}

CudaExpertBuffers::CudaExpertBuffers(const CudaExpertShape& s, DeviceLayout& layout) {
  const int64_t few = std::min(s.max_tokens, kFewExpertTokens) * s.used;
  const int64_t all = rounds(s) ? s.max_tokens * s.used : few;
  const int64_t many = rounds(s) ? 1 : 0;
  identity = layout.take<int32_t>(few);
  gate = layout.take<float>(all * s.d_expert);
  up = layout.take<float>(all * s.d_expert);
  parts = layout.take<float>(all * s.d_model);
  f = layout.take<uint16_t>(many * s.max_tokens * s.d_model);
  hidden = layout.take<uint16_t>(many * all * s.d_expert);
  begins = layout.take<int32_t>(many * (s.experts + 1));
  tokens = layout.take<int32_t>(many * all);
  slots = layout.take<int32_t>(many * all);
}

int64_t expert_buffer_bytes(const CudaExpertShape& shape) {
  DeviceLayout counted;
  static_cast<void>(CudaExpertBuffers(shape, counted));
  return counted.taken();
}

CudaProductShape product_shape(const ModelConfig& c, const RuntimeOptions& options) {
  const int64_t ffn = std::max(c.d_ffn, c.shared_experts * c.d_expert);
  return {
      .max_tokens = options.tile,
      .rows = std::max({c.vocab_size, c.heads * c.d_head() + c.index_heads * c.d_index,
                        c.q_rank + c.d_cache() + c.d_index + c.index_heads, 2 * ffn, c.d_model,
                        c.router.experts}),
      .cols = std::max({c.d_model, c.q_rank, c.heads * c.d_value, ffn}),
      .rounding = options.activations == Activations::kInt8 ? CudaRounding::kAllowed : CudaRounding::kNone};
}

HandoverShape handover_shape(const ModelConfig& c, const RuntimeOptions& options) {
  return {options.tile, c.d_model, c.router.experts_used};
}

CudaExpertShape expert_shape(const ModelConfig& c, const RuntimeOptions& options) {
  return {.max_tokens = options.tile,
          .d_model = c.d_model,
          .d_expert = c.d_expert,
          .experts = c.router.experts,
          .used = c.router.experts_used,
          .rounding = product_shape(c, options).rounding};
}

CudaActivationShape activation_shape(const ModelConfig& c, const RuntimeOptions& options,
                                     int64_t multiprocessors) {
  return {.config = c, .pass = options.max_batch, .tile = options.tile, .multiprocessors = multiprocessors};
}

int64_t streamed_bytes(const ModelConfig& c, int64_t pass_tokens) {
  const int64_t all = pass_tokens * c.router.experts_used;
  const int64_t together = std::min(all, kStreamedChoices);
  const int64_t of_choice = c.d_expert * 10 + c.d_model * 4;  // gate, up, hidden as bf16; output
  return pass_tokens * c.d_model * 2 + all * 16 + together * of_choice + kStreamedTables;
}

GpuWorkingMemory gpu_working_memory(const ModelConfig& config, const RuntimeOptions& options,
                                    int64_t multiprocessors) {
  const CudaProductShape products = product_shape(config, options);
  const HandoverShape handover = handover_shape(config, options);
  return {
      .activations = activation_bytes(activation_shape(config, options, multiprocessors)),
      .handover = handover.max_tokens * 8 * handover.used,  // ids and weights
      .experts = options.gpu_expert_layers.empty() ? 0 : expert_buffer_bytes(expert_shape(config, options)),
      .products = product_bytes(products),
      .libraries = rounds(products) ? kBlasBytes : 0};
}

}  // namespace sluice
