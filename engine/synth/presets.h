// The dimensions that synthetic models are made with.
#pragma once

#include "engine/model_config.h"
#include "engine/synth/model_spec.h"

namespace sluice::synth {

/// Everything but the number of layers and the name, which are the caller's to set. No MTP layers.
ModelConfig preset_config(Preset preset);

}  // namespace sluice::synth
