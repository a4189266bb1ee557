// Tables of dimensions.
#include "engine/synth/presets.h"

namespace sluice::synth {
namespace {

// DeepSeek-V3.2 as published (docs/formats.md has the same numbers beside their keys).
ModelConfig deepseek_v32() {
  ModelConfig config;
  config.vocab_size = 129280;
  config.d_model = 7168;
  config.context_length = 163840;
  config.heads = 128;
  config.q_rank = 1536;
  config.d_latent = 512;
  config.d_nope = 128;
  config.d_rope = 64;
  config.d_value = 128;
  config.index_heads = 64;
  config.d_index = 128;
  config.index_top_k = 2048;
  config.d_ffn = 18432;
  config.d_expert = 2048;
  config.shared_experts = 1;
  config.router = {
      .experts = 256, .experts_used = 8, .groups = 8, .groups_used = 4, .normalize = true, .scale = 2.5F};
  config.rope = {.dims = 64,
                 .freq_base = 10000.0F,
                 .factor = 40.0F,
                 .original_context = 4096,
                 .beta_fast = 32.0F,
                 .beta_slow = 1.0F};
  return config;
}

// Rows of 256 elements in the experts, so that Q4_K needs no other type there; attn_k_b's 64 make it take
// one.
ModelConfig tiny() {
  ModelConfig config;
  config.vocab_size = 512;
  config.d_model = 256;
  config.context_length = 4096;
  config.heads = 4;
  config.q_rank = 256;
  config.d_latent = 256;
  config.d_nope = 64;
  config.d_rope = 32;
  config.d_value = 64;
  config.index_heads = 4;
  config.d_index = 64;
  config.index_top_k = 32;
  config.d_ffn = 512;
  config.d_expert = 256;
  config.shared_experts = 1;
  config.router = {
      .experts = 16, .experts_used = 4, .groups = 4, .groups_used = 2, .normalize = true, .scale = 2.5F};
  config.rope = {.dims = 32,
                 .freq_base = 10000.0F,
                 .factor = 4.0F,
                 .original_context = 1024,
                 .beta_fast = 32.0F,
                 .beta_slow = 1.0F};
  return config;
}

}  // namespace

ModelConfig preset_config(Preset preset) {
  return preset == Preset::kTiny ? tiny() : deepseek_v32();
}

LayerCounts preset_layers(Preset preset) {
  return preset == Preset::kTiny ? LayerCounts{.dense = 1, .moe = 3} : LayerCounts{.dense = 3, .moe = 58};
}

}  // namespace sluice::synth
