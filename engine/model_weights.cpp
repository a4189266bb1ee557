#include "engine/model_weights.h"

#include <fmt/format.h>

#include <array>
#include <set>
#include <string>

#include "quant/base/error.h"
#include "quant/block_codec.h"

namespace sluice {
namespace {

// Looks tensors up by name, checks them, and remembers which were used.
class Binder {
 public:
  explicit Binder(const quant::GgufFile& file) : file_(file) {}

  [[nodiscard]] std::string subject(const std::string& name) const {
    return fmt::format("{}: tensor {}", file_.path().string(), name);
  }

  const quant::Tensor* find(const std::string& name) {
    const quant::Tensor* tensor = file_.find(name);
    if (tensor != nullptr) {
      used_.insert(name);
    }
    return tensor;
  }

  // A tensor of exactly this shape, in a type that can be decoded.
  const quant::Tensor& require(const std::string& name, std::array<int64_t, 3> ne) {
    const quant::Tensor* tensor = find(name);
    const std::string wanted = ne[2] > 1 ? fmt::format("shape {{{}, {}, {}}}", ne[0], ne[1], ne[2])
                                         : fmt::format("shape {{{}, {}}}", ne[0], ne[1]);
    if (tensor == nullptr) {
      throw Error(subject(name), "a tensor of " + wanted, "none of this name");
    }
    if (tensor->ne != std::array<int64_t, 4>{ne[0], ne[1], ne[2], 1}) {
      throw Error(subject(name), wanted, "shape " + quant::shape_text(*tensor));
    }
    if (!quant::can_dequantize(tensor->dtype)) {
      throw Error(subject(name), "a weight type", std::string(quant::dtype_info(tensor->dtype).name));
    }
    return *tensor;
  }

  std::span<const float> floats(const std::string& name, int64_t n) {
    const quant::Tensor& tensor = require(name, {n, 1, 1});
    if (tensor.dtype != quant::DType::kF32) {
      throw Error(subject(name), "type F32", fmt::format("type {}", quant::dtype_info(tensor.dtype).name));
    }
    const auto address = reinterpret_cast<uintptr_t>(tensor.bytes.data());
    if (address % alignof(float) != 0) {
      throw Error(subject(name), "an offset that is a multiple of 4",
                  fmt::format("remainder {}", address % 4));
    }
    return {reinterpret_cast<const float*>(tensor.bytes.data()), static_cast<size_t>(n)};
  }

  // The NVFP4 companion `X.scale` of tensor `X.weight`, or empty.
  std::span<const float> scales(const std::string& base, int64_t n) {
    const std::string name = base + ".scale";
    static_cast<void>(find(base + ".input_scale"));  // activations are not quantized: nothing to do with it
    return find(name) == nullptr ? std::span<const float>{} : floats(name, n);
  }

  quant::WeightView matrix(const std::string& base, int64_t rows, int64_t cols) {
    quant::WeightView view = require(base + ".weight", {cols, rows, 1}).matrix();
    const std::span<const float> scale = scales(base, 1);
    view.scale = scale.empty() ? 1.0F : scale[0];
    return view;
  }

  std::vector<quant::WeightView> per_head(const std::string& base, int64_t heads, int64_t rows,
                                          int64_t cols) {
    const quant::Tensor& tensor = require(base + ".weight", {cols, rows, heads});
    std::vector<quant::WeightView> views;
    for (int64_t h = 0; h < heads; ++h) {
      views.push_back(tensor.matrix(h));
    }
    return views;
  }

  offload::ExpertMatrix experts(const std::string& base, int64_t count, int64_t rows, int64_t cols) {
    const quant::Tensor& tensor = require(base + ".weight", {cols, rows, count});
    return {tensor.matrix(), rows, 0, rows, scales(base, count)};
  }

  [[nodiscard]] std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const quant::Tensor& tensor : file_.tensors()) {
      if (!used_.contains(tensor.name)) {
        names.push_back(tensor.name);
      }
    }
    return names;
  }

 private:
  const quant::GgufFile& file_;
  std::set<std::string> used_;
};

void bind_attention(Binder& binder, const std::string& block, const ModelConfig& config,
                    LayerWeights& layer) {
  layer.attention_norm = binder.floats(block + "attn_norm.weight", config.d_model);
  layer.query_a = binder.matrix(block + "attn_q_a", config.q_rank, config.d_model);
  layer.query_a_norm = binder.floats(block + "attn_q_a_norm.weight", config.q_rank);
  layer.query_b = binder.matrix(block + "attn_q_b", config.heads * config.d_head(), config.q_rank);
  layer.kv_a = binder.matrix(block + "attn_kv_a_mqa", config.d_cache(), config.d_model);
  layer.kv_a_norm = binder.floats(block + "attn_kv_a_norm.weight", config.d_latent);
  layer.key_b = binder.per_head(block + "attn_k_b", config.heads, config.d_latent, config.d_nope);
  layer.value_b = binder.per_head(block + "attn_v_b", config.heads, config.d_value, config.d_latent);
  layer.output = binder.matrix(block + "attn_output", config.d_model, config.heads * config.d_value);
  if (config.has_indexer) {
    IndexerWeights& indexer = layer.indexer;
    indexer.query =
        binder.matrix(block + "indexer.attn_q_b", config.index_heads * config.d_index, config.q_rank);
    indexer.key = binder.matrix(block + "indexer.attn_k", config.d_index, config.d_model);
    indexer.head_weights = binder.matrix(block + "indexer.proj", config.index_heads, config.d_model);
    indexer.norm_gain = binder.floats(block + "indexer.k_norm.weight", config.d_index);
    indexer.norm_bias = binder.floats(block + "indexer.k_norm.bias", config.d_index);
  }
}

FfnWeights bind_ffn(Binder& binder, const std::string& block, const std::string& suffix, int64_t d_ffn,
                    int64_t d_model) {
  return {.gate = binder.matrix(block + "ffn_gate" + suffix, d_ffn, d_model),
          .up = binder.matrix(block + "ffn_up" + suffix, d_ffn, d_model),
          .down = binder.matrix(block + "ffn_down" + suffix, d_model, d_ffn)};
}

// Converters may store gate and up fused, gate rows first.
offload::ExpertLayer bind_experts(Binder& binder, const std::string& block, const ModelConfig& config) {
  const int64_t experts = config.router.experts;
  offload::ExpertLayer layer{.experts = experts, .gate = {}, .up = {}, .down = {}};
  if (binder.find(block + "ffn_gate_up_exps.weight") != nullptr) {
    layer.gate = binder.experts(block + "ffn_gate_up_exps", experts, 2 * config.d_expert, config.d_model);
    layer.gate.rows = config.d_expert;
    layer.up = layer.gate;
    layer.up.first_row = config.d_expert;
  } else {
    layer.gate = binder.experts(block + "ffn_gate_exps", experts, config.d_expert, config.d_model);
    layer.up = binder.experts(block + "ffn_up_exps", experts, config.d_expert, config.d_model);
  }
  layer.down = binder.experts(block + "ffn_down_exps", experts, config.d_model, config.d_expert);
  return layer;
}

LayerWeights bind_layer(Binder& binder, int64_t index, const ModelConfig& config) {
  const std::string block = fmt::format("blk.{}.", index);
  LayerWeights layer;
  bind_attention(binder, block, config, layer);
  layer.ffn_norm = binder.floats(block + "ffn_norm.weight", config.d_model);
  if (config.is_dense_layer(index)) {
    layer.dense = bind_ffn(binder, block, "", config.d_ffn, config.d_model);
    return layer;
  }
  layer.router = binder.matrix(block + "ffn_gate_inp", config.router.experts, config.d_model);
  layer.router_bias = binder.floats(block + "exp_probs_b.bias", config.router.experts);
  layer.experts = bind_experts(binder, block, config);
  layer.shared = bind_ffn(binder, block, "_shexp", config.shared_experts * config.d_expert, config.d_model);
  return layer;
}

}  // namespace

ModelWeights bind_weights(const quant::GgufFile& file, const ModelConfig& config) {
  Binder binder(file);
  ModelWeights weights;
  weights.token_embedding = binder.matrix("token_embd", config.vocab_size, config.d_model);
  for (int64_t i = 0; i < config.layers; ++i) {
    weights.layers.push_back(bind_layer(binder, i, config));
  }
  weights.output_norm = binder.floats("output_norm.weight", config.d_model);
  // A file without an output matrix ties it to the embedding.
  weights.output = file.find("output.weight") != nullptr
                       ? binder.matrix("output", config.vocab_size, config.d_model)
                       : weights.token_embedding;
  weights.unused = binder.unused();
  return weights;
}

}  // namespace sluice
