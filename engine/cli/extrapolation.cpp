#include "engine/cli/extrapolation.h"

#include <fmt/format.h>

#include "engine/synth/model_spec.h"
#include "engine/synth/recipe.h"

namespace sluice::cli {
namespace {

// 0 when there is none of the kind.
double per_layer(int64_t ns, int64_t layers, double runs) {
  return layers == 0 ? 0.0 : static_cast<double>(ns) / static_cast<double>(layers) / runs;
}

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

Extrapolation extrapolate(const LayerScale& scale, const LayerTimes& layers, int64_t total_ns, int64_t runs) {
  const auto n = static_cast<double>(runs);
  Extrapolation result;
  result.dense_layer_ns = per_layer(layers.dense_ns, scale.measured.dense, n);
  result.moe_layer_ns = per_layer(layers.moe_ns, scale.measured.moe, n);
  result.rest_ns = static_cast<double>(total_ns - layers.dense_ns - layers.moe_ns) / n;
  result.total_ns = result.rest_ns + static_cast<double>(scale.full.dense) * result.dense_layer_ns +
                    static_cast<double>(scale.full.moe) * result.moe_layer_ns;
  return result;
}

}  // namespace sluice::cli
