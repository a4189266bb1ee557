// A model as a plan sees it: bytes and operations, layer by layer, and what has to be reserved beside the
// weights as functions of what is asked for. What the numbers stand for is the engine's to know
// (engine/plan_input.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sluice::offload {

/// A named number of bytes.
struct PlannedBytes {
  std::string what = {};
  int64_t bytes = 0;

  bool operator==(const PlannedBytes&) const = default;
};

/// A layer. Operations are of one token, a multiply-add being two.
struct PlanLayer {
  // Weights that every token uses.
  int64_t gpu_weights = 0;     // bytes in GPU memory
  int64_t beside_weights = 0;  // of these, what the GPU can compute while the CPU computes experts
  int64_t ram_weights = 0;     // bytes of copies in RAM where the CPU computes the layer
  double weight_operations = 0;

  // Routed experts, all of them together.
  int64_t experts = 0;      // 0: a layer without
  int64_t gpu_experts = 0;  // bytes in GPU memory
  int64_t ram_experts = 0;  // bytes in RAM; they are also what is copied to the GPU
  double expert_operations = 0;

  int64_t kernels = 0;         // launches for a token, those beside the experts included
  int64_t beside_kernels = 0;  // of these
  int64_t expert_kernels = 0;  // more of them where the GPU has the experts
};

/// The weights before the first layer and after the last.
struct PlanEnds {
  int64_t gpu_embedding = 0;  // bytes
  int64_t gpu_head = 0;
  int64_t ram_head = 0;
  double head_operations = 0;
  int64_t head_kernels = 0;
};

/// What a token does with what the layers remember of earlier ones, in one layer.
struct PlanMemory {
  int64_t scanned_bytes = 0;      // read of every earlier token
  double scanned_operations = 0;  // by int8 products, where the cache's type has them; else by bf16
  bool scanned_int8 = false;
  int64_t scan_kernels = 0;    // launches that scanning adds, in launches of ordinary kernels
  int64_t attended_bytes = 0;  // read of every earlier token that counts
  double attended_operations = 0;
  int64_t most_attended = 0;  // tokens that count, at most; up to as many nothing is scanned
};

/// What working memory depends on.
struct PlanWork {
  int64_t pass_tokens = 0;  // that go through a layer together (-b)
  int64_t tile_tokens = 0;  // that are computed at a time (-ub)
  int64_t context = 0;
  int64_t multiprocessors = 0;
  bool gpu_has_experts = false;
  bool streams = false;  // experts of some layers through the GPU
};

struct PlanModel {
  std::string name = {};
  std::vector<PlanLayer> layers = {};
  PlanEnds ends = {};
  PlanMemory memory = {};
  int64_t experts_used = 0;    // of a token
  int64_t context = 0;         // tokens that the model was made for
  int64_t gpu_context = 0;     // tokens of the longest cache that a GPU takes
  int64_t residual_bytes = 0;  // of a token between layers
  bool streams = true;         // experts in RAM can be copied to a GPU for a pass
  int64_t staging_bytes = 0;   // GPU memory that they are copied through, at least

  /// Bytes that `layers` layers remember of `context` tokens.
  std::function<std::vector<PlannedBytes>(int64_t layers, int64_t context)> gpu_cache = {};
  std::function<std::vector<PlannedBytes>(int64_t layers, int64_t context)> ram_cache = {};
  /// What a GPU that computes any layer works in.
  std::function<std::vector<PlannedBytes>(const PlanWork&)> gpu_working = {};
  /// What the CPU works in: as the GPU's partner, or when it computes all of some layers.
  std::function<std::vector<PlannedBytes>(const PlanWork&, bool computes_layers)> ram_working = {};
};

}  // namespace sluice::offload
