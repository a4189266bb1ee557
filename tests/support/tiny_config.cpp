// A small configuration and its config.json.
#include <nlohmann/json.hpp>

#include "support/tiny_checkpoint.h"

namespace sluice::testing {

ModelConfig tiny_config() {
  ModelConfig config;
  config.vocab_size = 320;
  config.d_model = 192;
  config.layers = 3;
  config.mtp_layers = 0;
  config.dense_layers = 1;
  config.context_length = 256;
  config.heads = 2;
  config.q_rank = 96;
  config.d_latent = 64;
  config.d_nope = 32;
  config.d_rope = 16;
  config.d_value = 64;
  config.index_heads = 2;
  config.d_index = 32;
  config.index_top_k = 8;
  config.d_ffn = 320;
  config.d_expert = 64;
  config.shared_experts = 1;
  config.router = {
      .experts = 8, .experts_used = 2, .groups = 4, .groups_used = 2, .normalize = true, .scale = 2.5F};
  config.rope = {.dims = 16,
                 .freq_base = 10000.0F,
                 .factor = 4.0F,
                 .original_context = 64,
                 .beta_fast = 32.0F,
                 .beta_slow = 1.0F};
  config.mscale_all_dim = 1.0F;
  return config;
}

nlohmann::json tiny_config_json(const ModelConfig& c, bool rope_parameters) {
  nlohmann::json json{{"architectures", {"DeepseekV32ForCausalLM"}},
                      {"model_type", "deepseek_v32"},
                      {"attention_bias", false},
                      {"first_k_dense_replace", c.dense_layers},
                      {"hidden_act", "silu"},
                      {"hidden_size", c.d_model},
                      {"index_head_dim", c.d_index},
                      {"index_n_heads", c.index_heads},
                      {"index_topk", c.index_top_k},
                      {"intermediate_size", c.d_ffn},
                      {"kv_lora_rank", c.d_latent},
                      {"max_position_embeddings", c.context_length},
                      {"moe_intermediate_size", c.d_expert},
                      {"moe_layer_freq", 1},
                      {"n_group", c.router.groups},
                      {"n_routed_experts", c.router.experts},
                      {"n_shared_experts", c.shared_experts},
                      {"norm_topk_prob", c.router.normalize},
                      {"num_attention_heads", c.heads},
                      {"num_experts_per_tok", c.router.experts_used},
                      {"num_hidden_layers", c.layers},
                      {"num_key_value_heads", c.heads},
                      {"num_nextn_predict_layers", c.mtp_layers},
                      {"q_lora_rank", c.q_rank},
                      {"qk_nope_head_dim", c.d_nope},
                      {"qk_rope_head_dim", c.d_rope},
                      {"rms_norm_eps", 1e-6},
                      {"routed_scaling_factor", c.router.scale},
                      {"scoring_func", "sigmoid"},
                      {"tie_word_embeddings", false},
                      {"topk_group", c.router.groups_used},
                      {"topk_method", "noaux_tc"},
                      {"v_head_dim", c.d_value},
                      {"vocab_size", c.vocab_size}};
  nlohmann::json rope{{"beta_fast", c.rope.beta_fast},
                      {"beta_slow", c.rope.beta_slow},
                      {"factor", c.rope.factor},
                      {"mscale", c.mscale_all_dim},
                      {"mscale_all_dim", c.mscale_all_dim},
                      {"original_max_position_embeddings", c.rope.original_context},
                      {rope_parameters ? "rope_type" : "type", "yarn"}};
  if (rope_parameters) {
    rope["rope_theta"] = c.rope.freq_base;
    json["rope_parameters"] = std::move(rope);
  } else {
    json["rope_theta"] = c.rope.freq_base;
    json["rope_scaling"] = std::move(rope);
  }
  return json;
}

}  // namespace sluice::testing
