// What a model takes in memory, and refusing what this machine has no room for before anything is read.
#pragma once

#include <cstdint>
#include <string>

#include "engine/model.h"

namespace sluice {

/// Bytes that loading allocates.
struct MemoryNeed {
  int64_t experts = 0;  // as panels in an ExpertStore
  int64_t panels = 0;   // of the matrices that all tokens share
};

/// Throws Error naming the model, what it needs, what is `available` (bytes) and what would help.
void require_memory(const Model& model, const MemoryNeed& need, int64_t available);

/// Bytes of GPU memory.
struct GpuMemoryNeed {
  int64_t weights = 0;
  int64_t experts = 0;  // routed ones
  int64_t working = 0;
  int64_t max_batch = 0;  // tokens that `working` is for
  int64_t cache = 0;
  int64_t context = 0;  // tokens that `cache` is for
};

/// Throws Error naming the GPU, what is needed, what is `available` (bytes) and what would help.
void require_gpu_memory(const std::string& gpu, const GpuMemoryNeed& need, int64_t available);

/// Bytes of the routed experts in the model's file.
int64_t expert_bytes(const ModelWeights& weights);

/// What it costs that the experts stay in the file, in one line: their size against the memory `available`
/// to cache them.
std::string mapped_experts_notice(const ModelWeights& weights, int64_t available);

}  // namespace sluice
