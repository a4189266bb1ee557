// The dimensions of a model, checked. Values in comments are DeepSeek-V3.2's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels_cpu/rope.h"
#include "kernels_cpu/router.h"
#include "quant/gguf_value.h"

namespace sluice {

struct ModelConfig {
  std::string name;
  int64_t vocab_size = 0;      // 129280
  int64_t d_model = 0;         // 7168
  int64_t layers = 0;          // 61; without MTP layers
  int64_t mtp_layers = 0;      // 1; stored after the main layers, not run
  int64_t dense_layers = 0;    // 3, the leading ones
  int64_t context_length = 0;  // 163840
  float rms_eps = 1e-6F;

  int64_t heads = 0;     // 128
  int64_t q_rank = 0;    // 1536
  int64_t d_latent = 0;  // 512
  int64_t d_nope = 0;    // 128, per head
  int64_t d_rope = 0;    // 64
  int64_t d_value = 0;   // 128, per head

  bool has_indexer = true;  // false: a file without indexer tensors; dense attention only
  int64_t index_heads = 0;  // 64
  int64_t d_index = 0;      // 128
  int64_t index_top_k = 0;  // 2048

  int64_t d_ffn = 0;           // 18432, dense layers
  int64_t d_expert = 0;        // 2048
  int64_t shared_experts = 0;  // 1
  cpu::RouterParams router;

  cpu::YarnParams rope;
  float mscale_all_dim = 1.0F;  // 0 when the file has no YaRN

  /// Width of a cached latent row: latent, then rope.
  [[nodiscard]] int64_t d_cache() const { return d_latent + d_rope; }
  /// Query and key width per head.
  [[nodiscard]] int64_t d_head() const { return d_nope + d_rope; }
  [[nodiscard]] bool is_dense_layer(int64_t layer) const { return layer < dense_layers; }
  /// Softmax scale with YaRN's mscale squared (model specification 2.4).
  [[nodiscard]] float softmax_scale() const;

  /// Throws Error naming `source` and the quantity when a dimension is missing, absurd or inconsistent.
  void check(const std::string& source) const;
};

inline constexpr float kIndexerLayerNormEps = 1e-6F;  // hard-coded in every implementation; in no file

/// From GGUF metadata of architecture `deepseek32`. Throws Error.
ModelConfig config_from_gguf(const quant::GgufMetadata& metadata);
/// From the text of a Hugging Face config.json (`rope_scaling` or `rope_parameters`). Throws Error.
ModelConfig config_from_json(std::string_view json, const std::string& source);

/// The `general.*` keys of a file that say nothing about dimensions.
struct GeneralKeys {
  uint32_t file_type = 0;  // docs/formats.md lists the values
  std::string size_label;  // parameters in words, as "671B"; may be empty
};

/// Writes the `general.*` and `deepseek32.*` keys of docs/formats.md, in its order and types.
/// `general.name` is config.name. Without an indexer or without YaRN their keys are left out.
void config_to_gguf(const ModelConfig& config, const GeneralKeys& general, quant::GgufMetadata& metadata);

}  // namespace sluice
