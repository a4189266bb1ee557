// Limits and consistency of a model's dimensions, and the softmax scale that follows from them.
#include "engine/model_config.h"

#include <fmt/format.h>

#include <cmath>

#include "quant/base/error.h"

namespace sluice {
namespace {

// Chosen far above any model of this family, and low enough that every product of dimensions that the engine
// forms (experts * d_expert * d_model * layers is the largest, 2^58) fits int64_t.
constexpr int64_t kMaxWidth = int64_t{1} << 18;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxExperts = 4096;

class Checker {
 public:
  explicit Checker(const std::string& source) : source_(source) {}

  void range(std::string_view quantity, int64_t value, int64_t low, int64_t high) const {
    if (value < low || value > high) {
      throw Error(subject(quantity), fmt::format("{} to {}", low, high), fmt::format("{}", value));
    }
  }
  void range(std::string_view quantity, float value, float low, float high) const {
    if (!(value >= low && value <= high)) {  // also true for NaN
      throw Error(subject(quantity), fmt::format("{} to {}", low, high), fmt::format("{}", value));
    }
  }
  void require(bool holds, std::string_view quantity, std::string_view expected, int64_t found) const {
    if (!holds) {
      throw Error(subject(quantity), expected, fmt::format("{}", found));
    }
  }

 private:
  [[nodiscard]] std::string subject(std::string_view quantity) const {
    return fmt::format("{}: {}", source_, quantity);
  }

  const std::string& source_;
};

void check_shape(const ModelConfig& config, const Checker& checker) {
  checker.range("vocabulary size", config.vocab_size, 1, kMaxVocab);
  checker.range("hidden size", config.d_model, 1, kMaxWidth);
  checker.range("number of layers", config.layers, 1, kMaxLayers);
  checker.range("number of MTP layers", config.mtp_layers, 0, 16);
  checker.range("number of leading dense layers", config.dense_layers, 0, config.layers);
  checker.range("context length", config.context_length, 1, kMaxContext);
  checker.range("RMSNorm epsilon", config.rms_eps, 1e-12F, 1e-1F);
}

void check_attention(const ModelConfig& config, const Checker& checker) {
  checker.range("attention heads", config.heads, 1, kMaxHeads);
  checker.range("query latent rank", config.q_rank, 1, kMaxWidth);
  checker.range("KV latent rank", config.d_latent, 1, kMaxWidth);
  checker.range("no-position dimensions per head", config.d_nope, 1, kMaxWidth);
  checker.range("rotary dimensions per head", config.d_rope, 2, kMaxWidth);
  checker.require(config.d_rope % 2 == 0, "rotary dimensions per head", "an even number", config.d_rope);
  checker.range("value dimensions per head", config.d_value, 1, kMaxWidth);
  if (config.has_indexer) {
    checker.range("indexer heads", config.index_heads, 1, kMaxHeads);
    checker.range("indexer head dimensions", config.d_index, config.d_rope, kMaxWidth);
    checker.range("indexer top-k", config.index_top_k, 1, kMaxContext);
  }
}

void check_experts(const ModelConfig& config, const Checker& checker) {
  const cpu::RouterParams& router = config.router;
  checker.range("dense FFN width", config.d_ffn, 1, kMaxWidth);
  checker.range("expert FFN width", config.d_expert, 1, kMaxWidth);
  checker.range("shared experts", config.shared_experts, 1, 64);
  checker.range("routed experts", router.experts, 1, kMaxExperts);
  checker.range("expert groups", router.groups, 1, router.experts);
  checker.require(router.experts % router.groups == 0, "routed experts",
                  fmt::format("a multiple of the {} expert groups", router.groups), router.experts);
  const int64_t group_size = router.experts / router.groups;
  // A group's score is the sum of its two best experts.
  checker.require(router.groups == 1 || group_size >= 2, "experts per group", "at least 2", group_size);
  checker.range("expert groups kept", router.groups_used, 1, router.groups);
  checker.range("experts per token", router.experts_used, 1, router.groups_used * group_size);
  checker.range("routed scaling factor", router.scale, 1e-6F, 1e6F);
}

void check_rope(const ModelConfig& config, const Checker& checker) {
  const cpu::YarnParams& rope = config.rope;
  checker.require(rope.dims == config.d_rope, "rotary dimensions", fmt::format("{}", config.d_rope),
                  rope.dims);
  checker.range("RoPE base", rope.freq_base, 1.001F, 1e12F);
  checker.range("YaRN factor", rope.factor, 1.0F, 1e5F);
  checker.range("YaRN original context length", rope.original_context, 1, kMaxContext);
  checker.range("YaRN beta_slow", rope.beta_slow, 1e-6F, 1e6F);
  checker.range("YaRN beta_fast", rope.beta_fast, rope.beta_slow, 1e6F);
  checker.range("YaRN mscale_all_dim", config.mscale_all_dim, 0.0F, 100.0F);
}

}  // namespace

float ModelConfig::softmax_scale() const {
  const double mscale =
      0.1 * static_cast<double>(mscale_all_dim) * std::log(static_cast<double>(rope.factor)) + 1.0;
  return static_cast<float>(mscale * mscale / std::sqrt(static_cast<double>(d_head())));
}

void ModelConfig::check(const std::string& source) const {
  const Checker checker(source);
  check_shape(*this, checker);
  check_attention(*this, checker);
  check_experts(*this, checker);
  check_rope(*this, checker);
}

}  // namespace sluice
