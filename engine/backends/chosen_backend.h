// Which backend a runtime computes with.
#pragma once

#include <functional>
#include <memory>

#include "engine/backends/backend.h"
#include "engine/loaded_weights.h"
#include "engine/model.h"
#include "engine/runtime.h"
#include "kernels_cpu/isa.h"
#include "offload/workers.h"

namespace sluice {

/// What backends are made from. All of it must outlive them.
struct BackendSources {
  const Model& model;
  const RuntimeOptions& options;  // checked
  const LoadedWeights& weights;
  cpu::Isa isa;
  offload::Workers& workers;
};

/// The CPU's, a GPU's, or both as a SplitBackend, by what the weights were loaded for. Throws Error when
/// working memory cannot be had.
std::unique_ptr<Backend> chosen_backend(const BackendSources& from);

}  // namespace sluice
