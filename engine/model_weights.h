// Where each weight of the model is: tensor names to views, with every shape checked against the
// configuration. Shapes are [rows = outputs, cols = inputs].
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_config.h"
#include "offload/expert_layer.h"
#include "quant/gguf_reader.h"
#include "quant/tensor.h"

namespace sluice {

struct FfnWeights {
  quant::WeightView gate;  // [d_ffn, d_model]
  quant::WeightView up;    // [d_ffn, d_model]
  quant::WeightView down;  // [d_model, d_ffn]
};

struct IndexerWeights {
  quant::WeightView query;           // [index_heads * d_index, q_rank]
  quant::WeightView key;             // [d_index, d_model]
  quant::WeightView head_weights;    // [index_heads, d_model]
  std::span<const float> norm_gain;  // [d_index]
  std::span<const float> norm_bias;  // [d_index]
};

struct LayerWeights {
  std::span<const float> attention_norm;   // [d_model]
  quant::WeightView query_a;               // [q_rank, d_model]
  std::span<const float> query_a_norm;     // [q_rank]
  quant::WeightView query_b;               // [heads * (d_nope + d_rope), q_rank]
  quant::WeightView kv_a;                  // [d_latent + d_rope, d_model]
  std::span<const float> kv_a_norm;        // [d_latent]
  std::vector<quant::WeightView> key_b;    // per head [d_latent, d_nope]: absorbs the no-position query
  std::vector<quant::WeightView> value_b;  // per head [d_value, d_latent]
  quant::WeightView output;                // [d_model, heads * d_value]
  IndexerWeights indexer;                  // unset when the model has none
  std::span<const float> ffn_norm;         // [d_model]

  FfnWeights dense;                    // dense layers only
  quant::WeightView router;            // MoE layers only, [experts, d_model]
  std::span<const float> router_bias;  // MoE layers only, [experts]
  offload::ExpertLayer experts;        // MoE layers only
  FfnWeights shared;                   // MoE layers only, d_ffn = shared_experts * d_expert
};

struct ModelWeights {
  quant::WeightView token_embedding;  // [vocab, d_model]
  std::vector<LayerWeights> layers;
  std::span<const float> output_norm;  // [d_model]
  quant::WeightView output;            // [vocab, d_model]
  std::vector<std::string> unused;     // tensors of the file that nothing here asked for, MTP layers included
};

/// Views into `file`, which must outlive them. Throws Error naming the file and the tensor that is missing or
/// has another shape or type than it must.
ModelWeights bind_weights(const quant::GgufFile& file, const ModelConfig& config);

}  // namespace sluice
