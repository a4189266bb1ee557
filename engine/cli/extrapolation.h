// From a few measured layers of random weights to all layers of the model whose dimensions they have:
// per-layer arithmetic, no measurement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "engine/synth/presets.h"

namespace sluice::cli {

/// What was run and what it is a part of.
struct LayerScale {
  synth::LayerCounts measured;
  synth::LayerCounts full;
  std::string remark;  // what else differs from the full model, or empty
};

/// Of a synthetic model with fewer layers than its preset's model, of every kind that this has; else empty.
std::optional<LayerScale> layer_scale(const Model& model);

/// One run of a test, in nanoseconds.
struct Extrapolation {
  double dense_layer_ns = 0;
  double moe_layer_ns = 0;
  double rest_ns = 0;   // embedding, head, what lies between layers, and a prompt's last layer
  double total_ns = 0;  // rest and all layers of the full model
};

/// `total_ns` of `runs` runs, of which `layers` were spent in the measured layers. Empty when no layer of a
/// kind was measured: of a prompt the last layer is for its last token alone, and no measure for others.
std::optional<Extrapolation> extrapolate(const LayerScale& scale, const LayerTimes& layers, int64_t total_ns,
                                         int64_t runs);

}  // namespace sluice::cli
