// Every intermediate of the CPU backend, with its shape. Sized once for the largest batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/model_config.h"
#include "quant/base/view.h"

namespace sluice {

/// A row-major float matrix that owns its memory.
struct Activation {
  Activation() = default;
  Activation(int64_t max_tokens, int64_t width)
      : cols(width), values(static_cast<size_t>(max_tokens * width)) {}
  /// The first n_tokens rows.
  [[nodiscard]] MatrixView<float> rows(int64_t n_tokens) { return {values.data(), n_tokens, cols}; }

  int64_t cols = 0;
  std::vector<float> values;
};

struct CpuActivations {
  CpuActivations(const ModelConfig& c, int64_t max_tokens)
      : residual(max_tokens, c.d_model),
        normed(max_tokens, c.d_model),
        query_latent(max_tokens, c.q_rank),
        query(max_tokens, c.heads * c.d_head()),
        kv(max_tokens, c.d_cache()),
        absorbed_query(max_tokens, c.heads * c.d_cache()),
        attended(max_tokens, c.heads * c.d_latent),
        value(max_tokens, c.heads * c.d_value),
        block_output(max_tokens, c.d_model),
        cos_sin(max_tokens, c.d_rope),
        index_query(max_tokens, c.index_heads * c.d_index),
        index_weights(max_tokens, c.index_heads),
        index_key(max_tokens, c.d_index),
        gate(max_tokens, std::max(c.d_ffn, c.shared_experts * c.d_expert)),
        up(max_tokens, std::max(c.d_ffn, c.shared_experts * c.d_expert)),
        router_logits(max_tokens, c.router.experts),
        route_weights(max_tokens, c.router.experts_used),
        route_ids(static_cast<size_t>(max_tokens * c.router.experts_used)) {}

  /// What they take.
  static int64_t bytes_needed(const ModelConfig& c, int64_t max_tokens) {
    const int64_t ffn = std::max(c.d_ffn, c.shared_experts * c.d_expert);
    const int64_t per_token = 3 * c.d_model + c.q_rank + c.d_cache() + c.d_rope +
                              c.heads * (c.d_head() + c.d_cache() + c.d_latent + c.d_value) +
                              c.index_heads * (c.d_index + 1) + c.d_index + 2 * ffn + c.router.experts +
                              2 * c.router.experts_used;
    return max_tokens * per_token * static_cast<int64_t>(sizeof(float));
  }

  Activation residual;             // [n_tokens, d_model]: the stream that all layers add to
  Activation normed;               // [n_tokens, d_model]: the block's input after its norm
  Activation query_latent;         // [n_tokens, q_rank]
  Activation query;                // [n_tokens, heads * (d_nope + d_rope)]
  Activation kv;                   // [n_tokens, d_latent + d_rope]: what the cache stores
  Activation absorbed_query;       // [n_tokens, heads * (d_latent + d_rope)]
  Activation attended;             // [n_tokens, heads * d_latent]: softmax-weighted latents
  Activation value;                // [n_tokens, heads * d_value]
  Activation block_output;         // [n_tokens, d_model]: before the residual add
  Activation cos_sin;              // [n_tokens, d_rope]
  Activation index_query;          // [n_tokens, index_heads * d_index]
  Activation index_weights;        // [n_tokens, index_heads]
  Activation index_key;            // [n_tokens, d_index]
  Activation gate;                 // [n_tokens, d_ffn]
  Activation up;                   // [n_tokens, d_ffn]
  Activation router_logits;        // [n_tokens, experts]
  Activation route_weights;        // [n_tokens, experts_used]
  std::vector<int32_t> route_ids;  // [n_tokens, experts_used]
};

}  // namespace sluice
