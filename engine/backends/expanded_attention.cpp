#include "engine/backends/expanded_attention.h"

#include <algorithm>

#include "kernels_cuda/mla_expanded_plan.h"

namespace sluice {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

cuda::MlaExpandedShape head_shape(const ModelConfig& c) {
  return {.d_nope = c.d_nope, .d_rope = c.d_rope, .d_value = c.d_value};
}

int64_t buffer_bytes(const ExpandedAttentionShape& shape, int64_t heads) {
  DeviceLayout counted;
  static_cast<void>(ExpandedAttentionBuffers(shape, heads, counted));
  return counted.taken();
}

/// Heads at a time that fill the GPU, or as many as there is room for; 0: not even one has room.
int64_t heads_with_room(const ExpandedAttentionShape& shape, int64_t bytes) {
  const int64_t all = shape.config.heads;
  const int64_t most = cuda::mla_expanded_heads(shape.n_tokens, all, shape.multiprocessors);
  for (int64_t groups = ceil_div(all, most); groups <= all; ++groups) {
    const int64_t heads = ceil_div(all, groups);
    if (buffer_bytes(shape, heads) <= bytes) {
      return heads;
    }
  }
  return 0;
}

/// Of a head, with all tokens of the tile.
double absorbed_operations(const ExpandedAttentionShape& s, double pairs) {
  return pairs * 2.0 * static_cast<double>(2 * s.config.d_latent + s.config.d_rope);
}

/// Those of attention divided by the share of multiprocessors that have a block, and those of the expansion.
double expanded_operations(const ExpandedAttentionShape& s, double pairs, int64_t heads) {
  const ModelConfig& c = s.config;
  const int64_t blocks = ceil_div(s.n_tokens, cuda::kMlaExpandedQueries) * heads;
  const int64_t places = ceil_div(blocks, s.multiprocessors) * s.multiprocessors;
  const double idle = static_cast<double>(places) / static_cast<double>(blocks);
  return pairs * 2.0 * static_cast<double>(c.d_nope + c.d_rope + c.d_value) * idle +
         static_cast<double>(s.rows()) * 2.0 * static_cast<double>(c.d_latent * (c.d_nope + c.d_value));
}

}  // namespace

ExpandedAttentionBuffers::ExpandedAttentionBuffers(const ExpandedAttentionShape& s, int64_t heads,
                                                   DeviceLayout& layout) {
  const ModelConfig& c = s.config;
  rows = layout.take<uint16_t>(has_fp8_latents(s.cache) ? s.rows() * c.d_cache() : 0);
  weights = layout.take<uint16_t>(cuda::latent_expansion_weights(head_shape(c), c.d_latent, heads));
  keys = layout.take<uint16_t>(heads * s.rows() * c.d_nope);
  values = layout.take<uint16_t>(heads * s.rows() * c.d_value);
}

int64_t expanded_attention_heads(const ExpandedAttentionShape& shape, int64_t bytes) {
  const ModelConfig& c = shape.config;
  if (!cuda::mla_expanded_takes(head_shape(c)) || c.d_latent % 16 != 0 || shape.cache == CacheType::kF32 ||
      shape.n_tokens == 0) {
    return 0;
  }
  const int64_t heads = heads_with_room(shape, bytes);
  if (heads == 0) {
    return 0;
  }
  const auto n = static_cast<double>(shape.n_tokens);
  const double pairs = n * static_cast<double>(shape.first_position) + n * (n + 1) / 2;
  return expanded_operations(shape, pairs, heads) < absorbed_operations(shape, pairs) ? heads : 0;
}

}  // namespace sluice
