// A model from the command line to one that computes, with its progress shown and Ctrl-C obeyed.
#pragma once

#include <stop_token>

#include "engine/cli/common_options.h"
#include "engine/cli/interrupt.h"
#include "engine/engine.h"
#include "engine/loaded_weights.h"

namespace sluice::cli {

/// Opens the file, or generates the weights of a synth:... text. When stopped it says so on standard error
/// and throws Interrupted. Throws Error naming the file.
Model load_model(const ModelOptions& options, const std::stop_token& stop = {});
/// Stopped by the first signal.
Model load_model(const ModelOptions& options, Interrupts& interrupts);

/// Loads the experts and makes panels. Says on standard error how far it has come, once it has taken two
/// seconds. When stopped it says so and throws Interrupted. Throws Error.
Runtime make_runtime(const Model& model, RuntimeOptions options, const std::stop_token& stop);
/// Stopped by the first signal.
Runtime make_runtime(const Model& model, const RuntimeOptions& options, Interrupts& interrupts);

/// The same for several runtimes, with all physical cores.
LoadedWeights load_weights(const Model& model, RuntimeOptions options, const std::stop_token& stop);

}  // namespace sluice::cli
