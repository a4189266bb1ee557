// The table of tensors, and kv_b_proj's split done the slow way.
#include "support/expected_gguf.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

namespace sluice::testing {
namespace {

struct Row {
  const char* target;
  const char* source;
  bool always_f32;
};

constexpr Row kEveryBlock[] = {
    {"attn_norm.weight", "input_layernorm.weight", true},
    {"ffn_norm.weight", "post_attention_layernorm.weight", true},
    {"attn_q_a.weight", "self_attn.q_a_proj.weight", false},
    {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", true},
    {"attn_q_b.weight", "self_attn.q_b_proj.weight", false},
    {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", false},
    {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", true},
    {"attn_output.weight", "self_attn.o_proj.weight", false},
    {"indexer.attn_q_b.weight", "self_attn.indexer.wq_b.weight", false},
    {"indexer.attn_k.weight", "self_attn.indexer.wk.weight", false},
    {"indexer.proj.weight", "self_attn.indexer.weights_proj.weight", true},
    {"indexer.k_norm.weight", "self_attn.indexer.k_norm.weight", true},
    {"indexer.k_norm.bias", "self_attn.indexer.k_norm.bias", true},
};
constexpr Row kDenseBlock[] = {
    {"ffn_gate.weight", "mlp.gate_proj.weight", false},
    {"ffn_up.weight", "mlp.up_proj.weight", false},
    {"ffn_down.weight", "mlp.down_proj.weight", false},
};
constexpr Row kMoeBlock[] = {
    {"ffn_gate_inp.weight", "mlp.gate.weight", true},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", true},
    {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", false},
    {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", false},
    {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", false},
};
constexpr Row kMtpBlock[] = {
    {"nextn.eh_proj.weight", "eh_proj.weight", false},
    {"nextn.enorm.weight", "enorm.weight", true},
    {"nextn.hnorm.weight", "hnorm.weight", true},
    {"nextn.shared_head_norm.weight", "shared_head.norm.weight", true},
    {"nextn.embed_tokens.weight", "embed_tokens.weight", false},
    {"nextn.shared_head_head.weight", "shared_head.head.weight", false},
};

class Expectation {
 public:
  Expectation(const ModelConfig& config, const TinyTensors& checkpoint) : c_(config), from_(checkpoint) {
    whole("token_embd.weight", "model.embed_tokens.weight", false);
    whole("output_norm.weight", "model.norm.weight", true);
    whole("output.weight", "lm_head.weight", false);
    for (int64_t index = 0; index < c_.layers + c_.mtp_layers; ++index) {
      block(index);
    }
  }

  std::map<std::string, ExpectedTensor> result;

 private:
  void whole(const std::string& target, const std::string& source, bool always_f32) {
    const TinyTensor& tensor = from_.at(source);
    result[target] = {{tensor.shape.rbegin(), tensor.shape.rend()}, always_f32, tensor.values};
  }

  template <size_t N>
  void rows(const Row (&table)[N], const std::string& target, const std::string& source) {
    for (const Row& row : table) {
      whole(target + row.target, source + row.source, row.always_f32);
    }
  }

  void block(int64_t index) {
    const std::string target = fmt::format("blk.{}.", index);
    const std::string source = fmt::format("model.layers.{}.", index);
    rows(kEveryBlock, target, source);
    split_kv_b(target, from_.at(source + "self_attn.kv_b_proj.weight"));
    if (index < c_.dense_layers) {
      rows(kDenseBlock, target, source);
    } else {
      rows(kMoeBlock, target, source);
      for (const auto& [part, projection] :
           {std::pair{"gate", "gate_proj"}, std::pair{"up", "up_proj"}, std::pair{"down", "down_proj"}}) {
        stack(fmt::format("{}ffn_{}_exps.weight", target, part), source, projection);
      }
    }
    if (index >= c_.layers) {
      rows(kMtpBlock, target, source);
    }
  }

  /// Element (i0, i1, head) of k_b is row head * (nope + value) + i0, column i1; of v_b row ... + nope + i1,
  /// column i0.
  void split_kv_b(const std::string& target, const TinyTensor& kv_b) {
    ExpectedTensor keys{{c_.d_nope, c_.d_latent, c_.heads}, false, {}};
    ExpectedTensor values{{c_.d_latent, c_.d_value, c_.heads}, false, {}};
    const auto at = [&](int64_t row, int64_t col) {
      return kv_b.values[static_cast<size_t>(row * c_.d_latent + col)];
    };
    for (int64_t head = 0; head < c_.heads; ++head) {
      const int64_t first = head * (c_.d_nope + c_.d_value);
      for (int64_t i1 = 0; i1 < c_.d_latent; ++i1) {
        for (int64_t i0 = 0; i0 < c_.d_nope; ++i0) {
          keys.values.push_back(at(first + i0, i1));
        }
      }
      for (int64_t i1 = 0; i1 < c_.d_value; ++i1) {
        for (int64_t i0 = 0; i0 < c_.d_latent; ++i0) {
          values.values.push_back(at(first + c_.d_nope + i1, i0));
        }
      }
    }
    result[target + "attn_k_b.weight"] = std::move(keys);
    result[target + "attn_v_b.weight"] = std::move(values);
  }

  void stack(const std::string& target, const std::string& source, const char* projection) {
    ExpectedTensor& tensor = result[target];
    for (int64_t expert = 0; expert < c_.router.experts; ++expert) {
      const TinyTensor& one = from_.at(fmt::format("{}mlp.experts.{}.{}.weight", source, expert, projection));
      tensor.ne = {one.shape[1], one.shape[0], c_.router.experts};
      tensor.values.insert(tensor.values.end(), one.values.begin(), one.values.end());
    }
  }

  const ModelConfig& c_;
  const TinyTensors& from_;
};

}  // namespace

std::map<std::string, ExpectedTensor> expected_gguf(const ModelConfig& config,
                                                    const TinyTensors& checkpoint) {
  return std::move(Expectation(config, checkpoint).result);
}

}  // namespace sluice::testing
