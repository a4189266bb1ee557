#include "engine/backends/cuda_activations.h"

#include <algorithm>

#include "kernels_cuda/mla_plan.h"
#include "kernels_cuda/sampling_plan.h"
#include "kernels_cuda/topk_plan.h"

namespace sluice {
namespace {

/// The largest scratch of any number of tokens up to a step.
int64_t top_k_bytes(const ModelConfig& c, int64_t step) {
  int64_t bytes = 0;
  for (int64_t n = 1; n <= step; ++n) {
    bytes = std::max(bytes, cuda::top_k_scratch_bytes(n, cuda_context(c)));
  }
  return bytes;
}

/// No plan has more splits than that for rows without end.
int64_t attention_bytes(const CudaActivationShape& shape, int64_t step) {
  constexpr int64_t kManyRows = int64_t{1} << 30;
  const ModelConfig& c = shape.config;
  int64_t bytes = 0;
  for (int64_t n = 1; n <= step; ++n) {
    const cuda::MlaPlan plan = cuda::plan_mla(n, c.heads, kManyRows, shape.multiprocessors);
    bytes = std::max(bytes, cuda::mla_scratch_bytes(n, c.heads, c.d_latent, plan.splits));
  }
  return bytes;
}

}  // namespace

int64_t cuda_context(const ModelConfig& config) {
  return std::min(config.context_length, cuda::kMostTopKScores);
}

int64_t cuda_step_tokens(int64_t heads, int64_t multiprocessors) {
  constexpr int64_t kLeast = 64;
  constexpr int64_t kMost = 128;
  constexpr int64_t kMultiple = 8;           // what matrix products like
  const int64_t blocks = (heads + 63) / 64;  // of a token
  const int64_t waves = (kLeast * blocks + multiprocessors - 1) / multiprocessors;
  const int64_t tokens = waves * multiprocessors / blocks / kMultiple * kMultiple;
  return std::clamp(tokens, kLeast, kMost);
}

CudaActivations::CudaActivations(const CudaActivationShape& shape, DeviceLayout& layout) {
  const ModelConfig& c = shape.config;
  const int64_t n = shape.tile;
  step = std::min(n, cuda_step_tokens(c.heads, shape.multiprocessors));
  const int64_t index = c.has_indexer ? 1 : 0;
  const int64_t ffn = std::max(c.d_ffn, c.shared_experts * c.d_expert);

  ids = layout.take<int32_t>(3 * shape.pass);
  positions = ids == nullptr ? nullptr : ids + shape.pass;
  lengths = ids == nullptr ? nullptr : ids + 2 * shape.pass;
  residual = layout.take<float>(shape.pass * c.d_model);
  cos_sin = layout.take<float>(cuda_context(c) * c.d_rope);

  normed = layout.take<float>(n * c.d_model);
  query_latent = layout.take<float>(n * c.q_rank);
  query = layout.take<float>(n * c.heads * c.d_head());
  kv = layout.take<float>(n * c.d_cache());
  value = layout.take<float>(n * c.heads * c.d_value);
  block_output = layout.take<float>(n * c.d_model);
  index_query = layout.take<float>(index * n * c.index_heads * c.d_index);
  index_weights = layout.take<float>(index * n * c.index_heads);
  index_key = layout.take<float>(index * n * c.d_index);
  gate = layout.take<float>(n * ffn);
  up = layout.take<float>(n * ffn);
  router_logits = layout.take<float>(n * c.router.experts);
  logits = layout.take<float>(std::min(n, kCudaHeadTokens) * c.vocab_size);
  sampling_scratch = layout.take<std::byte>(cuda::sampling_scratch(c.vocab_size).bytes);

  absorbed_query = layout.take<float>(step * c.heads * c.d_cache());
  attended = layout.take<float>(step * c.heads * c.d_latent);
  index_values = layout.take<std::byte>(index * step * c.index_heads * c.d_index * 4);
  index_low = layout.take<std::byte>(index * step * c.index_heads * c.d_index * 2);
  index_head_weights = layout.take<float>(index * step * c.index_heads);
  score_stride = (cuda_context(c) + 3) / 4 * 4;
  scores = layout.take<float>(index * step * score_stride);
  selected = layout.take<int32_t>(index * step * c.index_top_k);
  counts = layout.take<int32_t>(step);
  top_k_scratch = layout.take<std::byte>(index * top_k_bytes(c, step));
  attention_scratch_bytes = attention_bytes(shape, step);
  attention_scratch = layout.take<std::byte>(attention_scratch_bytes);
}

}  // namespace sluice
