// -ngl, -ncmoe, -cmoe, -ot, --vram-limit and --expert-cache: what of a model is computed on the GPU, with
// llama.cpp's meaning but for one thing: without -ncmoe, -cmoe and -ot the GPU gets the routed experts of as
// many layers as have room.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

/// --expert-cache: GPU memory for experts in RAM that recent tokens chose most.
struct ExpertCacheOption {
  enum class Size { kOff, kAuto, kBytes };
  Size size = Size::kOff;
  int64_t bytes = 0;  // of kBytes

  void add_to(CLI::App& app);
};

struct PlacementOptions {
  int64_t gpu_layers = -1;                // -ngl; -1: all, and the head, where there is a GPU
  std::optional<int64_t> cpu_moe_layers;  // -ncmoe
  bool cpu_moe = false;                   // -cmoe
  std::vector<std::string> overrides;     // -ot: REGEX=CPU or REGEX=CUDA0, the first that matches counts
  std::optional<int64_t> vram_limit;      // --vram-limit, bytes

  void add_to(CLI::App& app);
  /// All but -ncmoe: for a command that takes several of its values and sets `cpu_moe_layers` itself.
  void add_most_to(CLI::App& app);
  /// Sets `device`, `first_gpu_layer`, `gpu_expert_layers` and `gpu_memory_limit`; where these flags say
  /// nothing of routed experts they are the CPU's then. Throws Error naming the flag when a value is not as
  /// said here, asks for what is not possible (tensors other than routed experts where their layer is not),
  /// or contradicts another flag.
  void apply_to(RuntimeOptions& options, const Model& model) const;

  /// Whether -ncmoe, -cmoe or -ot say anything of routed experts.
  [[nodiscard]] bool places_experts() const {
    return cpu_moe || cpu_moe_layers.has_value() || !overrides.empty();
  }
  /// The layers whose routed experts they give to the GPU, of a model with these tensors. Throws Error as
  /// apply_to does.
  [[nodiscard]] std::vector<int64_t> gpu_expert_layers(const ModelConfig& config,
                                                       std::span<const quant::Tensor> tensors) const;
};

/// Where `options`, complete but for routed experts that no flag placed, use a GPU: fills what is free of its
/// memory with experts, of whole layers or in a cache as --expert-cache says, and tells so in a line on
/// standard error. With flags that place experts (`placed`) only a cache of so many bytes is added. Throws
/// Error as gpu_filling_now() does, and for --expert-cache auto beside such flags.
void fill_gpu(RuntimeOptions& options, const Model& model, const ExpertCacheOption& cache, bool placed);
/// Throw Error where a cache is wanted beside such flags, and without a GPU.
void require_unplaced(const ExpertCacheOption& cache, bool placed);
void require_gpu(const ExpertCacheOption& cache, bool gpu);

}  // namespace sluice::cli
