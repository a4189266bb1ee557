// Random models through a GPU and through the CPU, and how far apart the logits are.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "support/on_gpu.h"

namespace sluice::testing {

inline RuntimeOptions exact_on(Device device, int64_t max_batch = 512) {
  return {.max_batch = max_batch, .activations = Activations::kFloat32, .device = device};
}

inline RuntimeOptions with(AttentionMode attention, RuntimeOptions options) {
  options.attention = attention;
  return options;
}
/// With dense attention, where no selection of positions can flip by a rounding.
inline RuntimeOptions dense(RuntimeOptions options) {
  return with(AttentionMode::kDense, std::move(options));
}

/// Ways to keep a session's rows, each with both ways to read them.
inline std::vector<std::pair<CacheType, AttentionMode>> cache_types_and_attention() {
  std::vector<std::pair<CacheType, AttentionMode>> all;
  for (const CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kFp8, CacheType::kFp8Int8}) {
    for (const AttentionMode attention : {AttentionMode::kSparse, AttentionMode::kDense}) {
      all.emplace_back(type, attention);
    }
  }
  return all;
}
/// Two devices round a token's own row alike but for the last place, which may make another code of it, and
/// another selection: then random weights give quite other logits.
inline bool compares_across_devices(CacheType type, AttentionMode attention) {
  return type == CacheType::kF32 || attention == AttentionMode::kDense;
}

/// With the routed experts of every layer that the GPU has but every `kept`th in its memory; 0: of all.
inline RuntimeOptions resident(const Model& model, RuntimeOptions options, int64_t kept = 0) {
  const ModelConfig& config = model.config();
  for (int64_t layer = std::max(config.dense_layers, options.first_gpu_layer); layer < config.layers;
       ++layer) {
    if (kept == 0 || layer % kept != 0) options.gpu_expert_layers.push_back(layer);
  }
  return options;
}

/// Fixture with random tokens.
class ModelOnGpu : public OnGpu {
 protected:
  static constexpr int64_t kContext = 192;
  static constexpr int64_t kTokens = 150;  // well past the index top-k of 32, and more than two tiles

  void choose_tokens(const Model& model) {
    ids_.resize(static_cast<size_t>(kTokens));
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, model.config().vocab_size - 1));
    }
  }

  Model random_model(const std::string& type) {
    Model model = synth::open_model(
        synth::parse_model_spec(fmt::format("synth:tiny,dense=1,moe=2,type={},dense_type={},seed={}", type,
                                            type, random_.integer(0, 1'000'000))),
        {});
    choose_tokens(model);
    return model;
  }

  /// Of every position, [kTokens, vocabulary].
  std::vector<float> logits(Runtime& runtime, CacheType cache_type = CacheType::kF32) {
    const auto cache = runtime.make_cache(kContext, cache_type);
    const int64_t max_batch = runtime.options().max_batch;
    std::vector<float> all;
    for (int64_t first = 0; first < kTokens; first += max_batch) {
      const int64_t n = std::min(max_batch, kTokens - first);
      const std::span<const int32_t> ids =
          std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
      const MatrixView<const float> rows =
          runtime.forward({.ids = ids, .first_position = first, .logits = Logits::kAll, .stop = {}}, *cache)
              .logits;
      all.insert(all.end(), rows.data, rows.data + n * rows.cols);
    }
    return all;
  }
  std::vector<float> logits(const Model& model, const RuntimeOptions& options,
                            CacheType cache_type = CacheType::kF32) {
    Runtime runtime(model, options);
    return logits(runtime, cache_type);
  }

  std::vector<int32_t> ids_;
};

}  // namespace sluice::testing
