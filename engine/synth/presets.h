// The dimensions that synthetic models are made with.
#pragma once

#include "engine/model_config.h"
#include "engine/synth/model_spec.h"

namespace sluice::synth {

/// Everything but the number of layers and the name, which are the caller's to set. No MTP layers.
ModelConfig preset_config(Preset preset);

/// Layers of the model that a preset has the dimensions of; `tiny` is of none and has 1 + 3.
struct LayerCounts {
  int64_t dense = 0;
  int64_t moe = 0;

  bool operator==(const LayerCounts&) const = default;
};
LayerCounts preset_layers(Preset preset);

}  // namespace sluice::synth
