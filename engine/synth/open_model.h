// A synthetic model without a file.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>

#include "engine/model.h"
#include "engine/synth/model_spec.h"
#include "quant/gguf_reader.h"

namespace sluice::synth {

/// Called after every piece that is generated, several times a second.
using GenerateProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

struct OpenOptions {
  int64_t threads = 0;  // that generate; 0 = all physical cores. The bytes are the same whatever their number
  GenerateProgress progress = {};
  std::stop_token stop = {};  // asked after every piece, too
};

/// The model with its weights in memory but for the routed experts', which its expert_source() makes when
/// they are loaded; its path is the spec's text. Throws Error when the machine has less memory than all of
/// them take, LoadStopped (engine/load_stopped.h) when it was stopped.
Model open_model(const ModelSpec& spec, const OpenOptions& options);

/// What a file of the spec would hold, without a byte of the tensors.
quant::GgufFile declare_model(const ModelSpec& spec);

}  // namespace sluice::synth
