// A model's dimensions from the text of a Hugging Face config.json, in the spellings of transformers 4 and 5.
#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model_config.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

/// One JSON object with typed look-ups; errors name the file and the key's path in it.
class Object {
 public:
  Object(const Json& json, std::string source, std::string prefix = "")
      : json_(json), source_(std::move(source)), prefix_(std::move(prefix)) {}

  /// Null when absent or JSON null.
  [[nodiscard]] const Json* find(std::string_view name) const {
    const auto it = json_.find(std::string(name));
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  [[nodiscard]] int64_t count(std::string_view name) const { return to_count(name, at(name, "an integer")); }
  [[nodiscard]] int64_t count_or(std::string_view name, int64_t fallback) const {
    const Json* value = find(name);
    return value == nullptr ? fallback : to_count(name, *value);
  }
  [[nodiscard]] float number(std::string_view name) const { return to_number(name, at(name, "a number")); }
  [[nodiscard]] float number_or(std::string_view name, float fallback) const {
    const Json* value = find(name);
    return value == nullptr ? fallback : to_number(name, *value);
  }
  [[nodiscard]] bool boolean_or(std::string_view name, bool fallback) const {
    const Json* value = find(name);
    if (value != nullptr && !value->is_boolean()) {
      fail(name, "true or false", text_of(*value));
    }
    return value == nullptr ? fallback : value->get<bool>();
  }
  [[nodiscard]] std::string text(std::string_view name) const {
    const Json& value = at(name, "a string");
    if (!value.is_string()) {
      fail(name, "a string", text_of(value));
    }
    return value.get<std::string>();
  }
  [[nodiscard]] Object object(std::string_view name) const {
    const Json& value = at(name, "an object");
    if (!value.is_object()) {
      fail(name, "an object", text_of(value));
    }
    return {value, source_, fmt::format("{}{}.", prefix_, name)};
  }

  /// A key that may be absent, but holds this value when it is there.
  void expect_if_present(std::string_view name, const Json& expected) const {
    const Json* value = find(name);
    if (value != nullptr && *value != expected) {
      fail(name, text_of(expected), text_of(*value));
    }
  }
  [[noreturn]] void fail(std::string_view name, std::string_view expected, std::string_view found) const {
    throw Error(fmt::format("{}: key {}{}", source_, prefix_, name), expected, found);
  }

 private:
  [[nodiscard]] const Json& at(std::string_view name, std::string_view expected) const {
    const Json* value = find(name);
    if (value == nullptr) {
      fail(name, expected, "no such key");
    }
    return *value;
  }
  [[nodiscard]] int64_t to_count(std::string_view name, const Json& value) const {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      fail(name, "an integer", text_of(value));
    }
    return value.get<int64_t>();
  }
  [[nodiscard]] float to_number(std::string_view name, const Json& value) const {
    if (!value.is_number()) {
      fail(name, "a number", text_of(value));
    }
    return static_cast<float>(value.get<double>());
  }
  /// Shortened, so that an error stays one line of readable length.
  static std::string text_of(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) {
      text = text.substr(0, 57) + "...";
    }
    return text;
  }

  const Json& json_;
  std::string source_;
  std::string prefix_;
};

void check_family(const Object& root) {
  const std::string type = root.text("model_type");
  if (type != "deepseek_v32") {
    root.fail("model_type", "deepseek_v32", type);
  }
  root.expect_if_present("scoring_func", "sigmoid");
  root.expect_if_present("topk_method", "noaux_tc");
  root.expect_if_present("hidden_act", "silu");
  root.expect_if_present("attention_bias", false);
  root.expect_if_present("moe_layer_freq", 1);
  root.expect_if_present("tie_word_embeddings", false);
}

/// cos and sin are multiplied by get_mscale(mscale) / get_mscale(mscale_all_dim), which is 1 for this family
/// only when both are given and equal; the engine relies on that.
float read_mscale(const Object& scaling) {
  scaling.expect_if_present("attention_factor", 1.0);
  const float mscale = scaling.number("mscale");
  const float all_dim = scaling.number("mscale_all_dim");
  if (mscale != all_dim) {
    scaling.fail("mscale_all_dim", fmt::format("the value of mscale, {}", mscale),
                 fmt::format("{}", all_dim));
  }
  return all_dim;
}

void read_scaling(const Object& scaling, ModelConfig& config) {
  const char* type_key = scaling.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string type = scaling.text(type_key);
  if (type == "default") {
    return;
  }
  if (type != "yarn") {
    scaling.fail(type_key, "yarn or default", type);
  }
  const float factor = scaling.number("factor");
  if (factor == 1.0F) {
    return;  // the same rotation as without scaling, and the same softmax scale
  }
  config.rope.factor = factor;
  config.rope.original_context = scaling.count("original_max_position_embeddings");
  config.rope.beta_fast = scaling.number_or("beta_fast", config.rope.beta_fast);
  config.rope.beta_slow = scaling.number_or("beta_slow", config.rope.beta_slow);
  config.mscale_all_dim = read_mscale(scaling);
}

void read_rope(const Object& root, ModelConfig& config) {
  config.rope.dims = config.d_rope;
  config.mscale_all_dim = 0.0F;
  if (root.find("rope_parameters") != nullptr) {
    const Object parameters = root.object("rope_parameters");
    config.rope.freq_base = parameters.find("rope_theta") != nullptr ? parameters.number("rope_theta")
                                                                     : root.number("rope_theta");
    read_scaling(parameters, config);
    return;
  }
  config.rope.freq_base = root.number("rope_theta");
  if (root.find("rope_scaling") != nullptr) {
    read_scaling(root.object("rope_scaling"), config);
  }
}

void read_attention(const Object& root, ModelConfig& config) {
  config.heads = root.count("num_attention_heads");
  config.q_rank = root.count("q_lora_rank");
  config.d_latent = root.count("kv_lora_rank");
  config.d_nope = root.count("qk_nope_head_dim");
  config.d_rope = root.count("qk_rope_head_dim");
  config.d_value = root.count("v_head_dim");
  config.has_indexer = true;
  config.index_heads = root.count("index_n_heads");
  config.d_index = root.count("index_head_dim");
  config.index_top_k = root.count("index_topk");
}

void read_experts(const Object& root, ModelConfig& config) {
  config.d_ffn = root.count("intermediate_size");
  config.d_expert = root.count("moe_intermediate_size");
  config.shared_experts = root.count("n_shared_experts");
  config.router.experts = root.count("n_routed_experts");
  config.router.experts_used = root.count("num_experts_per_tok");
  config.router.groups = root.count("n_group");
  config.router.groups_used = root.count("topk_group");
  config.router.normalize = root.boolean_or("norm_topk_prob", true);
  config.router.scale = root.number("routed_scaling_factor");
}

}  // namespace

ModelConfig config_from_json(std::string_view json, const std::string& source) {
  const Json document = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    throw Error(source, "a JSON object",
                document.is_discarded() ? "text that is no JSON" : document.type_name());
  }
  const Object root(document, source);
  check_family(root);
  ModelConfig config;
  config.vocab_size = root.count("vocab_size");
  config.d_model = root.count("hidden_size");
  config.layers = root.count("num_hidden_layers");
  config.mtp_layers = root.count_or("num_nextn_predict_layers", 0);
  config.dense_layers = root.count("first_k_dense_replace");
  config.context_length = root.count("max_position_embeddings");
  config.rms_eps = root.number("rms_norm_eps");
  read_attention(root, config);
  read_rope(root, config);
  read_experts(root, config);
  config.check(source);
  return config;
}

}  // namespace sluice
