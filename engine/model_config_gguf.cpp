// A model's dimensions in GGUF metadata: the `deepseek32.*` keys, read strictly and written
// (docs/formats.md).
#include <fmt/format.h>

#include <string>

#include "engine/model_config.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr std::string_view kArchitecture = "deepseek32";
constexpr uint32_t kSigmoidGating = 2;
constexpr uint32_t kQuantizationVersion = 2;
// The file stores 0.1 * mscale_all_dim, the factor in front of ln(factor).
constexpr double kLogMultiplierUnit = 0.1;

std::string key(std::string_view name) {
  return fmt::format("{}.{}", kArchitecture, name);
}

/// Strict reading: a missing key or one of another type is an Error that names it.
class Reader {
 public:
  explicit Reader(const quant::GgufMetadata& metadata) : metadata_(metadata) {}

  [[nodiscard]] bool has(std::string_view name) const { return metadata_.find(key(name)) != nullptr; }
  [[nodiscard]] int64_t u32(std::string_view name) const { return metadata_.get<uint32_t>(key(name)); }
  [[nodiscard]] int64_t u32_or(std::string_view name, int64_t fallback) const {
    return has(name) ? u32(name) : fallback;
  }
  [[nodiscard]] float f32(std::string_view name) const { return metadata_.get<float>(key(name)); }
  [[nodiscard]] float f32_or(std::string_view name, float fallback) const {
    return metadata_.get_or<float>(key(name), fallback);
  }
  [[nodiscard]] bool boolean(std::string_view name) const { return metadata_.get<bool>(key(name)); }
  [[nodiscard]] std::string text(std::string_view name) const {
    return metadata_.get<std::string>(key(name));
  }

  void expect(std::string_view name, int64_t expected) const {
    const int64_t found = u32(name);
    if (found != expected) {
      fail(name, fmt::format("{}", expected), fmt::format("{}", found));
    }
  }
  [[noreturn]] void fail(std::string_view name, std::string_view expected, std::string_view found) const {
    throw Error(fmt::format("{}: key {}", metadata_.source(), key(name)), expected, found);
  }

 private:
  const quant::GgufMetadata& metadata_;
};

void check_architecture(const quant::GgufMetadata& metadata) {
  const auto found = metadata.get<std::string>("general.architecture");
  if (found == kArchitecture) {
    return;
  }
  const std::string remark =
      found == "deepseek2" ? " (the architecture name of dense-only files without an indexer)" : "";
  throw Error(fmt::format("{}: key general.architecture", metadata.source()), kArchitecture, found + remark);
}

void read_attention(const Reader& reader, ModelConfig& config) {
  config.heads = reader.u32("attention.head_count");
  config.q_rank = reader.u32("attention.q_lora_rank");
  config.d_latent = reader.u32("attention.kv_lora_rank");
  config.d_rope = reader.u32("rope.dimension_count");
  config.d_nope = reader.u32("attention.key_length_mla") - config.d_rope;
  config.d_value = reader.u32("attention.value_length_mla");
  reader.expect("attention.head_count_kv", 1);
  reader.expect("attention.key_length", config.d_cache());
  reader.expect("attention.value_length", config.d_latent);
  config.has_indexer = reader.has("attention.indexer.head_count") ||
                       reader.has("attention.indexer.key_length") || reader.has("attention.indexer.top_k");
  if (config.has_indexer) {
    config.index_heads = reader.u32("attention.indexer.head_count");
    config.d_index = reader.u32("attention.indexer.key_length");
    config.index_top_k = reader.u32("attention.indexer.top_k");
  }
}

void read_rope(const Reader& reader, ModelConfig& config) {
  config.rope.dims = config.d_rope;
  config.rope.freq_base = reader.f32("rope.freq_base");
  config.mscale_all_dim = 0.0F;
  const std::string type = reader.has("rope.scaling.type") ? reader.text("rope.scaling.type") : "none";
  if (type == "none") {
    return;
  }
  if (type != "yarn") {
    reader.fail("rope.scaling.type", "yarn or none", type);
  }
  config.rope.factor = reader.f32("rope.scaling.factor");
  config.rope.original_context = reader.u32("rope.scaling.original_context_length");
  config.rope.beta_fast = reader.f32_or("rope.scaling.yarn_beta_fast", config.rope.beta_fast);
  config.rope.beta_slow = reader.f32_or("rope.scaling.yarn_beta_slow", config.rope.beta_slow);
  const auto multiplier = static_cast<double>(reader.f32_or("rope.scaling.yarn_log_multiplier", 0.0F));
  config.mscale_all_dim = static_cast<float>(multiplier / kLogMultiplierUnit);
}

void read_experts(const Reader& reader, ModelConfig& config) {
  config.d_ffn = reader.u32("feed_forward_length");
  config.d_expert = reader.u32("expert_feed_forward_length");
  config.shared_experts = reader.u32("expert_shared_count");
  config.router.experts = reader.u32("expert_count");
  config.router.experts_used = reader.u32("expert_used_count");
  config.router.groups = reader.u32("expert_group_count");
  config.router.groups_used = reader.u32("expert_group_used_count");
  config.router.scale = reader.f32("expert_weights_scale");
  config.router.normalize = reader.boolean("expert_weights_norm");
  const int64_t gating = reader.u32("expert_gating_func");
  if (gating != kSigmoidGating) {
    reader.fail("expert_gating_func", "2 (sigmoid)", fmt::format("{}", gating));
  }
}

/// Appends keys under the architecture's prefix with the file's own types.
class Writer {
 public:
  explicit Writer(quant::GgufMetadata& metadata) : metadata_(metadata) {}

  void u32(std::string_view name, int64_t value) { metadata_.set(key(name), static_cast<uint32_t>(value)); }
  void f32(std::string_view name, float value) { metadata_.set(key(name), value); }
  void boolean(std::string_view name, bool value) { metadata_.set(key(name), value); }
  void text(std::string_view name, std::string value) { metadata_.set(key(name), std::move(value)); }

 private:
  quant::GgufMetadata& metadata_;
};

void write_general(const ModelConfig& config, const GeneralKeys& general, quant::GgufMetadata& metadata) {
  metadata.set("general.architecture", std::string(kArchitecture));
  metadata.set("general.type", std::string("model"));
  metadata.set("general.name", config.name);
  if (!general.size_label.empty()) {
    metadata.set("general.size_label", general.size_label);
  }
  metadata.set("general.file_type", general.file_type);
  metadata.set("general.quantization_version", kQuantizationVersion);
}

void write_attention(const ModelConfig& config, Writer& writer) {
  writer.u32("attention.head_count", config.heads);
  writer.u32("attention.head_count_kv", 1);
  writer.u32("attention.key_length", config.d_cache());
  writer.u32("attention.value_length", config.d_latent);
  writer.u32("attention.key_length_mla", config.d_head());
  writer.u32("attention.value_length_mla", config.d_value);
  writer.u32("attention.q_lora_rank", config.q_rank);
  writer.u32("attention.kv_lora_rank", config.d_latent);
  writer.f32("attention.layer_norm_rms_epsilon", config.rms_eps);
}

void write_rope(const ModelConfig& config, Writer& writer) {
  writer.u32("rope.dimension_count", config.d_rope);
  writer.f32("rope.freq_base", config.rope.freq_base);
  if (config.rope.factor == 1.0F) {
    return;  // no scaling: a file without these keys says so
  }
  writer.text("rope.scaling.type", "yarn");
  writer.f32("rope.scaling.factor", config.rope.factor);
  writer.u32("rope.scaling.original_context_length", config.rope.original_context);
  writer.f32("rope.scaling.yarn_beta_fast", config.rope.beta_fast);
  writer.f32("rope.scaling.yarn_beta_slow", config.rope.beta_slow);
  writer.f32("rope.scaling.yarn_log_multiplier",
             static_cast<float>(kLogMultiplierUnit * static_cast<double>(config.mscale_all_dim)));
}

void write_experts(const ModelConfig& config, Writer& writer) {
  writer.u32("expert_count", config.router.experts);
  writer.u32("expert_used_count", config.router.experts_used);
  writer.u32("expert_group_count", config.router.groups);
  writer.u32("expert_group_used_count", config.router.groups_used);
  writer.u32("expert_gating_func", kSigmoidGating);
  writer.u32("expert_feed_forward_length", config.d_expert);
  writer.u32("expert_shared_count", config.shared_experts);
  writer.f32("expert_weights_scale", config.router.scale);
  writer.boolean("expert_weights_norm", config.router.normalize);
}

}  // namespace

ModelConfig config_from_gguf(const quant::GgufMetadata& metadata) {
  check_architecture(metadata);
  const Reader reader(metadata);
  ModelConfig config;
  config.name = metadata.get_or<std::string>("general.name", "");
  config.mtp_layers = reader.u32_or("nextn_predict_layers", 0);
  config.layers = reader.u32("block_count") - config.mtp_layers;
  config.context_length = reader.u32("context_length");
  config.vocab_size = reader.u32("vocab_size");
  config.d_model = reader.u32("embedding_length");
  config.dense_layers = reader.u32("leading_dense_block_count");
  config.rms_eps = reader.f32("attention.layer_norm_rms_epsilon");
  read_attention(reader, config);
  read_rope(reader, config);
  read_experts(reader, config);
  config.check(metadata.source());
  return config;
}

void config_to_gguf(const ModelConfig& config, const GeneralKeys& general, quant::GgufMetadata& metadata) {
  write_general(config, general, metadata);
  Writer writer(metadata);
  writer.u32("block_count", config.layers + config.mtp_layers);
  writer.u32("context_length", config.context_length);
  writer.u32("vocab_size", config.vocab_size);
  writer.u32("embedding_length", config.d_model);
  writer.u32("feed_forward_length", config.d_ffn);
  writer.u32("leading_dense_block_count", config.dense_layers);
  write_attention(config, writer);
  write_rope(config, writer);
  write_experts(config, writer);
  writer.u32("nextn_predict_layers", config.mtp_layers);
  if (config.has_indexer) {
    writer.u32("attention.indexer.head_count", config.index_heads);
    writer.u32("attention.indexer.key_length", config.d_index);
    writer.u32("attention.indexer.top_k", config.index_top_k);
  }
}

}  // namespace sluice
