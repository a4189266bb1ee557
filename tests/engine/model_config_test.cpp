// Configuration from config.json and from GGUF metadata: values, spellings, and everything that must be
// refused.
#include "engine/model_config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <variant>

#include "quant/base/error.h"
#include "support/places.h"
#include "support/tiny_checkpoint.h"

namespace sluice {
namespace {

using quant::GgufEntry;
using quant::GgufMetadata;
using quant::GgufValue;
using testing::tiny_config;
using testing::tiny_config_json;
using Json = nlohmann::json;

/// The released model's values (model specification 1.1).
ModelConfig released_config() {
  ModelConfig c;
  c.name = "DeepSeek-V3.2";
  c.vocab_size = 129280;
  c.d_model = 7168;
  c.layers = 61;
  c.mtp_layers = 1;
  c.dense_layers = 3;
  c.context_length = 163840;
  c.heads = 128;
  c.q_rank = 1536;
  c.d_latent = 512;
  c.d_nope = 128;
  c.d_rope = 64;
  c.d_value = 128;
  c.index_heads = 64;
  c.d_index = 128;
  c.index_top_k = 2048;
  c.d_ffn = 18432;
  c.d_expert = 2048;
  c.shared_experts = 1;
  c.router = {
      .experts = 256, .experts_used = 8, .groups = 8, .groups_used = 4, .normalize = true, .scale = 2.5F};
  c.rope = {.dims = 64,
            .freq_base = 10000.0F,
            .factor = 40.0F,
            .original_context = 4096,
            .beta_fast = 32.0F,
            .beta_slow = 1.0F};
  c.mscale_all_dim = 1.0F;
  return c;
}

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(tiny_config_json(a, false), tiny_config_json(b, false));  // every dimension that config.json has
  EXPECT_EQ(a.rms_eps, b.rms_eps);
  EXPECT_EQ(a.has_indexer, b.has_indexer);
  EXPECT_EQ(a.rope.dims, b.rope.dims);
}

ModelConfig parse(const Json& json) {
  return config_from_json(json.dump(), "config.json");
}

/// The error's text; fails the test when nothing is thrown.
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    std::string text = error.what();
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

void expect_error_naming(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text << "\nshould name " << part;
}

TEST(ModelConfigJson, ReadsEveryDimensionInBothSpellingsOfTheRopeBlock) {
  for (const ModelConfig& config : {released_config(), tiny_config()}) {
    expect_same(parse(tiny_config_json(config, false)), config);
    expect_same(parse(tiny_config_json(config, true)), config);
  }
}

TEST(ModelConfigJson, SoftmaxScaleIsTheSpecified) {
  EXPECT_NEAR(parse(tiny_config_json(released_config(), false)).softmax_scale(), 0.1352337789, 1e-8);
}

TEST(ModelConfigJson, TinyModelOfTheSharedFolder) {
  const std::filesystem::path path = testing::source_directory() / "../shared/models/tiny/config.json";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "shared/models/tiny is not here";
  }
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  const ModelConfig config = config_from_json(text.str(), path.string());
  EXPECT_EQ(config.vocab_size, 8192);
  EXPECT_EQ(config.d_model, 512);
  EXPECT_EQ(config.layers, 6);
  EXPECT_EQ(config.mtp_layers, 0);
  EXPECT_EQ(config.dense_layers, 1);
  EXPECT_EQ(config.heads, 8);
  EXPECT_EQ(config.index_top_k, 256);
  EXPECT_EQ(config.router.experts, 32);
  EXPECT_EQ(config.router.groups_used, 2);
  EXPECT_EQ(config.rope.factor, 4.0F);
  EXPECT_EQ(config.rope.original_context, 1024);
  EXPECT_NEAR(config.softmax_scale(), 0.0935651676, 1e-8);
}

TEST(ModelConfigJson, WithoutRopeScalingTheFactorIsOne) {
  Json json = tiny_config_json(tiny_config(), false);
  for (const Json& scaling : {Json(), Json{{"rope_type", "default"}}}) {
    json["rope_scaling"] = scaling;
    const ModelConfig config = parse(json);
    EXPECT_EQ(config.rope.factor, 1.0F);
    EXPECT_EQ(config.rope.dims, 16);
    EXPECT_FLOAT_EQ(config.softmax_scale(), 1.0F / std::sqrt(48.0F));
  }
  json.erase("rope_scaling");
  EXPECT_EQ(parse(json).rope.factor, 1.0F);
}

TEST(ModelConfigJson, EveryMissingOrMistypedKeyIsNamed) {
  const char* const optional[] = {"architectures",
                                  "attention_bias",
                                  "hidden_act",
                                  "moe_layer_freq",
                                  "norm_topk_prob",
                                  "num_key_value_heads",
                                  "num_nextn_predict_layers",
                                  "scoring_func",
                                  "tie_word_embeddings",
                                  "topk_method",
                                  "rope_scaling"};
  const Json good = tiny_config_json(tiny_config(), false);
  for (const auto& [key, value] : good.items()) {
    SCOPED_TRACE(key);
    if (std::find(std::begin(optional), std::end(optional), key) == std::end(optional)) {
      Json missing = good;
      missing.erase(key);
      expect_error_naming(error_of([&] { parse(missing); }), key);
    }
    if (key != "architectures" && key != "num_key_value_heads") {
      Json mistyped = good;
      mistyped[key] = Json::array({"x"});
      expect_error_naming(error_of([&] { parse(mistyped); }), key);
    }
  }
  for (const char* key : {"factor", "mscale", "mscale_all_dim", "original_max_position_embeddings", "type"}) {
    Json missing = good;
    missing["rope_scaling"].erase(key);
    expect_error_naming(error_of([&] { parse(missing); }), std::string("rope_scaling.") + key);
  }
}

TEST(ModelConfigJson, OtherFamiliesAndVariantsAreRefused) {
  const std::pair<const char*, Json> changes[] = {{"model_type", "deepseek_v3"}, {"scoring_func", "softmax"},
                                                  {"topk_method", "greedy"},     {"hidden_act", "gelu"},
                                                  {"attention_bias", true},      {"moe_layer_freq", 2},
                                                  {"tie_word_embeddings", true}};
  for (const auto& [key, value] : changes) {
    Json json = tiny_config_json(tiny_config(), false);
    json[key] = value;
    const std::string text = error_of([&] { parse(json); });
    expect_error_naming(text, key);
    expect_error_naming(text, value.is_string() ? value.get<std::string>() : value.dump());
  }
  Json json = tiny_config_json(tiny_config(), false);
  json["rope_scaling"]["type"] = "linear";
  expect_error_naming(error_of([&] { parse(json); }), "linear");
  json = tiny_config_json(tiny_config(), false);
  json["rope_scaling"]["mscale"] = 0.707;  // cos and sin would need a factor
  expect_error_naming(error_of([&] { parse(json); }), "mscale");
}

TEST(ModelConfigJson, AbsurdValuesAreRefused) {
  const std::pair<const char*, Json> changes[] = {{"vocab_size", 0},
                                                  {"vocab_size", -5},
                                                  {"vocab_size", 1LL << 40},
                                                  {"hidden_size", 0},
                                                  {"hidden_size", 1LL << 62},
                                                  {"hidden_size", 18446744073709551615ULL},
                                                  {"hidden_size", 192.5},
                                                  {"num_hidden_layers", 0},
                                                  {"num_hidden_layers", 1025},
                                                  {"num_nextn_predict_layers", -1},
                                                  {"first_k_dense_replace", 4},
                                                  {"max_position_embeddings", 0},
                                                  {"num_attention_heads", 4097},
                                                  {"q_lora_rank", 0},
                                                  {"kv_lora_rank", 0},
                                                  {"qk_nope_head_dim", 0},
                                                  {"qk_rope_head_dim", 15},
                                                  {"qk_rope_head_dim", 0},
                                                  {"v_head_dim", -1},
                                                  {"index_n_heads", 0},
                                                  {"index_head_dim", 8},
                                                  {"index_topk", 0},
                                                  {"intermediate_size", 0},
                                                  {"moe_intermediate_size", 0},
                                                  {"n_shared_experts", 0},
                                                  {"n_routed_experts", 7},
                                                  {"n_routed_experts", 0},
                                                  {"n_group", 0},
                                                  {"topk_group", 5},
                                                  {"num_experts_per_tok", 5},
                                                  {"num_experts_per_tok", 0},
                                                  {"routed_scaling_factor", 0.0},
                                                  {"routed_scaling_factor", 1e300},
                                                  {"rms_norm_eps", -1e-6},
                                                  {"rope_theta", 0}};
  for (const auto& [key, value] : changes) {
    SCOPED_TRACE(fmt::format("{} = {}", key, value.dump()));
    Json json = tiny_config_json(tiny_config(), false);
    json[key] = value;
    error_of([&] { parse(json); });
  }
  for (const char* text : {"", "[]", "{", "3", "\"x\"", "{\"model_type\":1}", "{\"hidden_size\":1e999}"}) {
    expect_error_naming(error_of([&] { config_from_json(text, "some.json"); }), "some.json");
  }
}

/// "key type value" per entry.
std::string listing(const GgufMetadata& metadata) {
  std::string text;
  for (const GgufEntry& entry : metadata.entries()) {
    text += fmt::format("{} {} ", entry.key, quant::gguf_type_name(quant::gguf_type_of(entry.value)));
    if (const auto* number = std::get_if<uint32_t>(&entry.value)) {
      text += fmt::format("{}\n", *number);
    } else if (const auto* real = std::get_if<float>(&entry.value)) {
      text += fmt::format("{}\n", *real);
    } else if (const auto* flag = std::get_if<bool>(&entry.value)) {
      text += fmt::format("{}\n", *flag);
    } else {
      text += fmt::format("{}\n", std::get<std::string>(entry.value));
    }
  }
  return text;
}

GgufMetadata metadata_of(const ModelConfig& config) {
  GgufMetadata metadata("model.gguf");
  config_to_gguf(config, {.file_type = 7, .size_label = "671B"}, metadata);
  return metadata;
}

TEST(ModelConfigGguf, WritesTheSpecifiedKeysInOrder) {
  EXPECT_EQ(listing(metadata_of(released_config())),
            "general.architecture string deepseek32\n"
            "general.type string model\n"
            "general.name string DeepSeek-V3.2\n"
            "general.size_label string 671B\n"
            "general.file_type u32 7\n"
            "general.quantization_version u32 2\n"
            "deepseek32.block_count u32 62\n"
            "deepseek32.context_length u32 163840\n"
            "deepseek32.vocab_size u32 129280\n"
            "deepseek32.embedding_length u32 7168\n"
            "deepseek32.feed_forward_length u32 18432\n"
            "deepseek32.leading_dense_block_count u32 3\n"
            "deepseek32.attention.head_count u32 128\n"
            "deepseek32.attention.head_count_kv u32 1\n"
            "deepseek32.attention.key_length u32 576\n"
            "deepseek32.attention.value_length u32 512\n"
            "deepseek32.attention.key_length_mla u32 192\n"
            "deepseek32.attention.value_length_mla u32 128\n"
            "deepseek32.attention.q_lora_rank u32 1536\n"
            "deepseek32.attention.kv_lora_rank u32 512\n"
            "deepseek32.attention.layer_norm_rms_epsilon f32 1e-06\n"
            "deepseek32.rope.dimension_count u32 64\n"
            "deepseek32.rope.freq_base f32 10000\n"
            "deepseek32.rope.scaling.type string yarn\n"
            "deepseek32.rope.scaling.factor f32 40\n"
            "deepseek32.rope.scaling.original_context_length u32 4096\n"
            "deepseek32.rope.scaling.yarn_beta_fast f32 32\n"
            "deepseek32.rope.scaling.yarn_beta_slow f32 1\n"
            "deepseek32.rope.scaling.yarn_log_multiplier f32 0.1\n"
            "deepseek32.expert_count u32 256\n"
            "deepseek32.expert_used_count u32 8\n"
            "deepseek32.expert_group_count u32 8\n"
            "deepseek32.expert_group_used_count u32 4\n"
            "deepseek32.expert_gating_func u32 2\n"
            "deepseek32.expert_feed_forward_length u32 2048\n"
            "deepseek32.expert_shared_count u32 1\n"
            "deepseek32.expert_weights_scale f32 2.5\n"
            "deepseek32.expert_weights_norm bool true\n"
            "deepseek32.nextn_predict_layers u32 1\n"
            "deepseek32.attention.indexer.head_count u32 64\n"
            "deepseek32.attention.indexer.key_length u32 128\n"
            "deepseek32.attention.indexer.top_k u32 2048\n");
}

TEST(ModelConfigGguf, RoundTrips) {
  ModelConfig unscaled = tiny_config();
  unscaled.rope.factor = 1.0F;
  unscaled.rope.original_context = cpu::YarnParams{}.original_context;  // of no meaning, in no file
  unscaled.mscale_all_dim = 0.0F;
  ModelConfig dense = tiny_config();
  dense.has_indexer = false;
  dense.index_heads = dense.d_index = dense.index_top_k = 0;
  for (const ModelConfig& config : {released_config(), tiny_config(), unscaled, dense}) {
    const ModelConfig back = config_from_gguf(metadata_of(config));
    expect_same(back, config);
    EXPECT_EQ(back.name, config.name);
    EXPECT_EQ(back.softmax_scale(), config.softmax_scale());
  }
}

/// Metadata with one entry changed or, when `change` returns no value, left out.
GgufMetadata edited(const GgufMetadata& from, std::string_view key,
                    const std::function<std::optional<GgufValue>(const GgufValue&)>& change) {
  GgufMetadata metadata("model.gguf");
  for (const GgufEntry& entry : from.entries()) {
    const std::optional<GgufValue> value = entry.key == key ? change(entry.value) : entry.value;
    if (value) {
      metadata.set(entry.key, *value);
    }
  }
  return metadata;
}

GgufMetadata with_u32(std::string_view name, uint32_t value) {
  return edited(metadata_of(released_config()), fmt::format("deepseek32.{}", name),
                [&](const GgufValue&) { return GgufValue(value); });
}

TEST(ModelConfigGguf, EveryMissingOrMistypedKeyIsNamed) {
  const std::string_view optional[] = {
      "deepseek32.rope.scaling.type", "deepseek32.rope.scaling.yarn_beta_fast",
      "deepseek32.rope.scaling.yarn_beta_slow", "deepseek32.rope.scaling.yarn_log_multiplier"};
  const GgufMetadata good = metadata_of(released_config());
  for (const GgufEntry& entry : good.entries()) {
    if (entry.key.starts_with("general.") && entry.key != "general.architecture") {
      continue;
    }
    SCOPED_TRACE(entry.key);
    const bool is_optional =
        std::find(std::begin(optional), std::end(optional), entry.key) != std::end(optional);
    if (!is_optional && entry.key != "deepseek32.nextn_predict_layers") {
      const GgufMetadata missing = edited(good, entry.key, [](const GgufValue&) { return std::nullopt; });
      expect_error_naming(error_of([&] { config_from_gguf(missing); }), entry.key);
    }
    const GgufMetadata mistyped =
        edited(good, entry.key, [](const GgufValue&) { return GgufValue(int32_t{1}); });
    expect_error_naming(error_of([&] { config_from_gguf(mistyped); }), entry.key);
  }
}

TEST(ModelConfigGguf, WithoutMtpKeyAllBlocksAreMain) {
  const GgufMetadata metadata = edited(metadata_of(released_config()), "deepseek32.nextn_predict_layers",
                                       [](const GgufValue&) { return std::nullopt; });
  EXPECT_EQ(config_from_gguf(metadata).layers, 62);
}

TEST(ModelConfigGguf, InconsistentValuesAreRefused) {
  expect_error_naming(error_of([] { config_from_gguf(with_u32("attention.key_length", 575)); }), "576");
  expect_error_naming(error_of([] { config_from_gguf(with_u32("attention.value_length", 128)); }), "512");
  expect_error_naming(error_of([] { config_from_gguf(with_u32("attention.head_count_kv", 128)); }),
                      "head_count_kv");
  expect_error_naming(error_of([] { config_from_gguf(with_u32("expert_gating_func", 1)); }), "sigmoid");
  error_of([] { config_from_gguf(with_u32("attention.key_length_mla", 32)); });  // less than the rotary part
  error_of([] { config_from_gguf(with_u32("nextn_predict_layers", 62)); });      // no main layer left
  error_of([] { config_from_gguf(with_u32("block_count", 0xFFFFFFFFU)); });
  error_of([] { config_from_gguf(with_u32("expert_used_count", 129)); });
}

TEST(ModelConfigGguf, OtherArchitecturesAreRefused) {
  const auto named = [](const char* name) {
    return edited(metadata_of(released_config()), "general.architecture",
                  [&](const GgufValue&) { return GgufValue(std::string(name)); });
  };
  const std::string text = error_of([&] { config_from_gguf(named("deepseek2")); });
  expect_error_naming(text, "deepseek32");
  expect_error_naming(text, "dense-only");
  expect_error_naming(error_of([&] { config_from_gguf(named("llama")); }), "llama");
}

}  // namespace
}  // namespace sluice
