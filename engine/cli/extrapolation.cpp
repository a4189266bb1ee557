#include "engine/cli/extrapolation.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/synth/model_spec.h"
#include "engine/synth/recipe.h"

namespace sluice::cli {
namespace {

/// A kind of layer in all passes of a test.
struct Kind {
  int64_t ns = 0;
  double measured = 0;  // layers of a pass that took so long, on average
  int64_t in_part = 0;
  int64_t in_full = 0;

  [[nodiscard]] bool is_unknown() const { return in_full > 0 && measured == 0; }
  /// Of all passes. 0 when there is none of the kind.
  [[nodiscard]] double layer_ns() const { return measured == 0 ? 0.0 : static_cast<double>(ns) / measured; }
  /// The full model's, less those that the rest has.
  [[nodiscard]] double all_ns() const {
    return layer_ns() * (static_cast<double>(in_full - in_part) + measured);
  }
};

}  // namespace

std::optional<LayerScale> layer_scale(const Model& model) {
  const auto text = model.file().metadata().get_or<std::string>(synth::kSyntheticKey, {});
  if (text.empty()) return {};
  const synth::ModelSpec spec = synth::parse_model_spec(text);
  LayerScale scale{{spec.dense_layers, spec.moe_layers}, synth::preset_layers(spec.preset), {}};
  const bool has_every_kind =
      (scale.measured.dense > 0 || scale.full.dense == 0) && (scale.measured.moe > 0 || scale.full.moe == 0);
  const bool has_fewer = scale.measured.dense + scale.measured.moe < scale.full.dense + scale.full.moe;
  if (!has_every_kind || !has_fewer) return {};
  const int64_t experts = synth::preset_config(spec.preset).router.experts;
  if (model.config().router.experts != experts) {
    scale.remark = fmt::format("of {} experts instead of {}", model.config().router.experts, experts);
  }
  return scale;
}

std::optional<Extrapolation> extrapolate(const LayerScale& scale, const LayerTimes& layers, int64_t total_ns,
                                         int64_t runs) {
  const auto n = static_cast<double>(runs);
  const auto per_pass = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(std::max<int64_t>(layers.passes, 1));
  };
  const Kind dense{layers.dense_ns, per_pass(layers.dense_layers), scale.measured.dense, scale.full.dense};
  const Kind moe{layers.moe_ns, per_pass(layers.moe_layers), scale.measured.moe, scale.full.moe};
  if (dense.is_unknown() || moe.is_unknown()) return {};
  const auto rest = static_cast<double>(total_ns - layers.dense_ns - layers.moe_ns);
  return Extrapolation{.dense_layer_ns = dense.layer_ns() / n,
                       .moe_layer_ns = moe.layer_ns() / n,
                       .rest_ns = rest / n,
                       .total_ns = (rest + dense.all_ns() + moe.all_ns()) / n};
}

}  // namespace sluice::cli
