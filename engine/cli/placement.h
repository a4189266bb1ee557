// -ngl, -ncmoe, -cmoe and -ot: what of a model is computed on the GPU, with llama.cpp's meaning but for one
// thing: without -ncmoe, -cmoe and -ot the routed experts of all layers are the CPU's.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

struct PlacementOptions {
  int64_t gpu_layers = -1;                // -ngl; -1: all where there is a GPU
  std::optional<int64_t> cpu_moe_layers;  // -ncmoe
  bool cpu_moe = false;                   // -cmoe
  std::vector<std::string> overrides;     // -ot: REGEX=CPU or REGEX=CUDA0, the first that matches counts

  void add_to(CLI::App& app);
  /// All but -ncmoe: for a command that takes several of its values and sets `cpu_moe_layers` itself.
  void add_most_to(CLI::App& app);
  /// Sets `device` and `gpu_expert_layers`. Throws Error naming the flag when a value is not as said here,
  /// asks for what is not possible (some layers of a model on the GPU and others not, tensors other than
  /// routed experts elsewhere), or contradicts another flag.
  void apply_to(RuntimeOptions& options, const Model& model) const;

 private:
  [[nodiscard]] Device device_for(const Model& model) const;
  [[nodiscard]] std::vector<int64_t> gpu_expert_layers(const Model& model) const;
};

}  // namespace sluice::cli
