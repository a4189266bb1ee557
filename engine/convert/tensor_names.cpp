// The map between Hugging Face's and GGUF's names of DeepSeek-V3.2's tensors.
#include "engine/convert/tensor_names.h"

#include <fmt/format.h>

#include <cassert>

namespace sluice::convert {
namespace {

/// Collects one block's tensors under its two prefixes.
class Block {
 public:
  Block(std::vector<TensorPlan>& plans, int64_t index)
      : plans_(plans),
        target_(fmt::format("blk.{}.", index)),
        source_(fmt::format("model.layers.{}.", index)) {}

  void vector(std::string_view target, std::string_view source, int64_t n) const {
    add(target, {n}, source, {n}, SourceLayout::kWhole);
  }
  /// Maps `cols` inputs to `rows` outputs.
  void matrix(std::string_view target, std::string_view source, int64_t cols, int64_t rows) const {
    add(target, {cols, rows}, source, {rows, cols}, SourceLayout::kWhole);
  }
  void optional_matrix(std::string_view target, std::string_view source, int64_t cols, int64_t rows) const {
    matrix(target, source, cols, rows);
    plans_.back().optional = true;
  }
  void heads(std::string_view target, std::string_view source, std::vector<int64_t> ne,
             std::vector<int64_t> source_shape, SourceLayout layout) const {
    add(target, std::move(ne), source, std::move(source_shape), layout);
  }
  /// Source names are mlp.experts.E.<projection>.weight.
  void experts(std::string_view target, std::string_view projection, int64_t cols, int64_t rows,
               int64_t count) const {
    TensorPlan plan{target_ + std::string(target),
                    {cols, rows, count},
                    SourceLayout::kExpertStack,
                    false,
                    {},
                    {rows, cols}};
    for (int64_t expert = 0; expert < count; ++expert) {
      plan.sources.push_back(fmt::format("{}mlp.experts.{}.{}.weight", source_, expert, projection));
    }
    plans_.push_back(std::move(plan));
  }

 private:
  void add(std::string_view target, std::vector<int64_t> ne, std::string_view source,
           std::vector<int64_t> source_shape, SourceLayout layout) const {
    plans_.push_back({target_ + std::string(target),
                      std::move(ne),
                      layout,
                      false,
                      {source_ + std::string(source)},
                      std::move(source_shape)});
  }

  std::vector<TensorPlan>& plans_;
  std::string target_;
  std::string source_;
};

void plan_attention(const ModelConfig& c, const Block& block) {
  block.vector("attn_norm.weight", "input_layernorm.weight", c.d_model);
  block.vector("ffn_norm.weight", "post_attention_layernorm.weight", c.d_model);
  block.matrix("attn_q_a.weight", "self_attn.q_a_proj.weight", c.d_model, c.q_rank);
  block.vector("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", c.q_rank);
  block.matrix("attn_q_b.weight", "self_attn.q_b_proj.weight", c.q_rank, c.heads * c.d_head());
  block.matrix("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", c.d_model, c.d_cache());
  block.vector("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", c.d_latent);
  const std::vector<int64_t> kv_b{c.heads * (c.d_nope + c.d_value), c.d_latent};
  block.heads("attn_k_b.weight", "self_attn.kv_b_proj.weight", {c.d_nope, c.d_latent, c.heads}, kv_b,
              SourceLayout::kKeyHeads);
  block.heads("attn_v_b.weight", "self_attn.kv_b_proj.weight", {c.d_latent, c.d_value, c.heads}, kv_b,
              SourceLayout::kValueHeads);
  block.matrix("attn_output.weight", "self_attn.o_proj.weight", c.heads * c.d_value, c.d_model);
}

void plan_indexer(const ModelConfig& c, const Block& block) {
  block.matrix("indexer.attn_q_b.weight", "self_attn.indexer.wq_b.weight", c.q_rank,
               c.index_heads * c.d_index);
  block.matrix("indexer.attn_k.weight", "self_attn.indexer.wk.weight", c.d_model, c.d_index);
  block.matrix("indexer.proj.weight", "self_attn.indexer.weights_proj.weight", c.d_model, c.index_heads);
  block.vector("indexer.k_norm.weight", "self_attn.indexer.k_norm.weight", c.d_index);
  block.vector("indexer.k_norm.bias", "self_attn.indexer.k_norm.bias", c.d_index);
}

void plan_dense_ffn(const ModelConfig& c, const Block& block) {
  block.matrix("ffn_gate.weight", "mlp.gate_proj.weight", c.d_model, c.d_ffn);
  block.matrix("ffn_up.weight", "mlp.up_proj.weight", c.d_model, c.d_ffn);
  block.matrix("ffn_down.weight", "mlp.down_proj.weight", c.d_ffn, c.d_model);
}

void plan_experts(const ModelConfig& c, const Block& block) {
  const int64_t d_shared = c.d_expert * c.shared_experts;
  block.matrix("ffn_gate_inp.weight", "mlp.gate.weight", c.d_model, c.router.experts);
  block.vector("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", c.router.experts);
  block.experts("ffn_gate_exps.weight", "gate_proj", c.d_model, c.d_expert, c.router.experts);
  block.experts("ffn_up_exps.weight", "up_proj", c.d_model, c.d_expert, c.router.experts);
  block.experts("ffn_down_exps.weight", "down_proj", c.d_expert, c.d_model, c.router.experts);
  block.matrix("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", c.d_model, d_shared);
  block.matrix("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", c.d_model, d_shared);
  block.matrix("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", d_shared, c.d_model);
}

void plan_mtp(const ModelConfig& c, const Block& block) {
  block.matrix("nextn.eh_proj.weight", "eh_proj.weight", 2 * c.d_model, c.d_model);
  block.vector("nextn.enorm.weight", "enorm.weight", c.d_model);
  block.vector("nextn.hnorm.weight", "hnorm.weight", c.d_model);
  block.vector("nextn.shared_head_norm.weight", "shared_head.norm.weight", c.d_model);
  // Copies of the main embedding and head; some checkpoints leave them out.
  block.optional_matrix("nextn.embed_tokens.weight", "embed_tokens.weight", c.d_model, c.vocab_size);
  block.optional_matrix("nextn.shared_head_head.weight", "shared_head.head.weight", c.d_model, c.vocab_size);
}

TensorPlan root_tensor(std::string target, std::string source, std::vector<int64_t> shape) {
  std::vector<int64_t> ne(shape.rbegin(), shape.rend());
  return {std::move(target),   std::move(ne),   SourceLayout::kWhole, false,
          {std::move(source)}, std::move(shape)};
}

/// The name after "blk.N.", without ".weight"; the whole name when it has no such prefix.
std::string_view kind_of(std::string_view name) {
  if (name.starts_with("blk.")) {
    const size_t dot = name.find('.', 4);
    name = dot == std::string_view::npos ? name : name.substr(dot + 1);
  }
  return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
}

}  // namespace

std::vector<TensorPlan> plan_tensors(const ModelConfig& config) {
  std::vector<TensorPlan> plans;
  plans.push_back(
      root_tensor("token_embd.weight", "model.embed_tokens.weight", {config.vocab_size, config.d_model}));
  for (int64_t layer = 0; layer < config.layers + config.mtp_layers; ++layer) {
    const Block block(plans, layer);
    plan_attention(config, block);
    if (config.has_indexer) {
      plan_indexer(config, block);
    }
    if (config.is_dense_layer(layer)) {
      plan_dense_ffn(config, block);
    } else {
      plan_experts(config, block);
    }
    if (layer >= config.layers) {
      plan_mtp(config, block);
    }
  }
  plans.push_back(root_tensor("output_norm.weight", "model.norm.weight", {config.d_model}));
  plans.push_back(root_tensor("output.weight", "lm_head.weight", {config.vocab_size, config.d_model}));
  return plans;
}

bool may_quantize(std::string_view name, int n_dims) {
  const std::string_view kind = kind_of(name);
  return n_dims >= 2 && name.ends_with(".weight") && !kind.ends_with("norm") && kind != "ffn_gate_inp" &&
         kind != "indexer.proj";
}

bool has_second_scale(std::string_view name) {
  const std::string_view kind = kind_of(name);
  if (kind == "attn_output") {
    return true;
  }
  for (const std::string_view projection : {"ffn_gate", "ffn_up", "ffn_down"}) {
    if (kind.starts_with(projection)) {
      const std::string_view rest = kind.substr(projection.size());
      return rest.empty() || rest == "_exps" || rest == "_shexp";
    }
  }
  return false;
}

std::string scale_name(std::string_view name) {
  assert(name.ends_with(".weight"));
  return std::string(name.substr(0, name.size() - 7)) + ".scale";
}

}  // namespace sluice::convert
