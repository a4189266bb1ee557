#include "engine/backends/gpu_working_memory.h"

#include <algorithm>

#include "engine/backends/cuda_activations.h"

namespace sluice {
namespace {

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

bool rounds(const CudaProductShape& shape) {
  return shape.rounding == CudaRounding::kAllowed && shape.max_tokens > kMostExactTokens;
}

CudaExpertBuffers::CudaExpertBuffers(const CudaExpertShape& s, DeviceLayout& layout) {
  const int64_t slots = std::min(s.max_tokens, kFewExpertTokens) * s.used;
  identity = layout.take<int32_t>(slots);
  hidden = layout.take<float>(slots * s.d_expert);
  parts = layout.take<float>(slots * s.d_model);
}

int64_t expert_buffer_bytes(const CudaExpertShape& shape) {
  DeviceLayout counted;
  static_cast<void>(CudaExpertBuffers(shape, counted));
  return counted.taken();
}

PassExpertBuffers::PassExpertBuffers(const PassExpertShape& s, DeviceLayout& layout) {
  const int64_t choices = most_choices(s);
  f = layout.take<uint16_t>(s.max_tokens * s.d_model);
  ids = layout.take<int32_t>(s.max_tokens * s.used);
  weights = layout.take<float>(s.max_tokens * s.used);
  tables = layout.take<std::byte>(PassTables(s, s.max_tokens, nullptr).bytes);
  gate = layout.take<float>(choices * s.d_expert);
  up = layout.take<float>(choices * s.d_expert);
  hidden = layout.take<uint16_t>(choices * s.d_expert);
  parts = layout.take<float>(choices * s.d_model);
}

int64_t pass_expert_bytes(const PassExpertShape& shape) {
  DeviceLayout counted;
  static_cast<void>(PassExpertBuffers(shape, counted));
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
          .used = c.router.experts_used};
}

bool computes_few(const RuntimeOptions& options) {
  return !options.gpu_expert_layers.empty() || options.expert_cache_bytes > 0;
}

std::optional<PassExpertShape> pass_expert_shape(const ModelConfig& c, const RuntimeOptions& options) {
  const bool streams = options.prefill != Prefill::kCpu;
  const bool has_some = !options.gpu_expert_layers.empty() && options.max_batch > kFewExpertTokens &&
                        options.activations == Activations::kInt8;
  if (!streams && !has_some) {
    return {};
  }
  return PassExpertShape{.max_tokens = options.max_batch,
                         .d_model = c.d_model,
                         .d_expert = c.d_expert,
                         .experts = c.router.experts,
                         .used = c.router.experts_used};
}

CudaActivationShape activation_shape(const ModelConfig& c, const RuntimeOptions& options,
                                     int64_t multiprocessors) {
  return {.config = c, .pass = options.max_batch, .tile = options.tile, .multiprocessors = multiprocessors};
}

GpuWorkingMemory gpu_working_memory(const ModelConfig& config, const RuntimeOptions& options,
                                    int64_t multiprocessors) {
  const CudaProductShape products = product_shape(config, options);
  const HandoverShape handover = handover_shape(config, options);
  const std::optional<PassExpertShape> pass = pass_expert_shape(config, options);
  return {.activations = activation_bytes(activation_shape(config, options, multiprocessors)),
          .handover = handover.max_tokens * 8 * handover.used,  // ids and weights
          .experts = computes_few(options) ? expert_buffer_bytes(expert_shape(config, options)) : 0,
          .expert_cache = options.expert_cache_bytes,
          .pass_experts = pass.has_value() ? pass_expert_bytes(*pass) : 0,
          .products = product_bytes(products),
          .libraries = rounds(products) ? kBlasBytes : 0};
}

}  // namespace sluice
