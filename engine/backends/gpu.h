// The GPU as the rest of engine/ sees it. gpu_cuda.cpp is this with CUDA, gpu_none.cpp without: a build has
// one of them.
#pragma once

#include <memory>
#include <string>

#include "engine/backends/backend.h"
#include "engine/model.h"
#include "engine/runtime.h"
#include "offload/expert_weights.h"
#include "offload/workers.h"

namespace sluice {

/// What there is to compute on.
struct GpuFound {
  bool usable = false;
  std::string why_not;  // when it is not usable: "no CUDA-capable device is detected"
  std::string notice;   // why_not of a GPU that is there; empty when there is none
};
GpuFound find_gpu();

/// Memory of the GPU that is computed on, at this moment. All bytes.
struct GpuMemory {
  std::string name;  // "NVIDIA GeForce RTX 4090"
  int64_t total = 0;
  int64_t free = 0;
  int64_t multiprocessors = 0;
};
/// Throws Error when there is no GPU that can compute, or CUDA fails.
GpuMemory gpu_memory();

/// What may be taken of it when no more than `limit` bytes shall be in use; 0: no limit. Not below 0.
int64_t allowed_bytes(const GpuMemory& memory, int64_t limit);

/// `wish`, kAuto being resolved. Throws Error naming -ngl when kGpu cannot be had.
Device chosen_device(Device wish);

/// The weights that a GPU holds: of its part of the model all but the routed experts', and theirs of some
/// layers.
class GpuWeights {
 public:
  GpuWeights() = default;
  GpuWeights(const GpuWeights&) = delete;
  GpuWeights& operator=(const GpuWeights&) = delete;
  virtual ~GpuWeights() = default;

  /// "GPU 0 (NVIDIA GeForce RTX 4090, 24.0 GB) with 11.3 GB of weights".
  [[nodiscard]] virtual const std::string& description() const = 0;
};

/// Copies them, after a check that they, the working memory for `options` and the planned cache have room.
/// Throws Error with the figures and what to change when they have not, when the model has a shape that the
/// kernels do not take, and when CUDA fails; LoadStopped.
std::unique_ptr<const GpuWeights> load_gpu_weights(const Model& model, const RuntimeOptions& options,
                                                   offload::Workers& workers);

/// How much of the experts' memory is page-locked, so that a GPU copies from it at full speed.
struct PageLock {
  int64_t locked_bytes = 0;
  int64_t bytes = 0;    // all that shall be
  std::string problem;  // why no more will be; empty while all is well
};

/// What a problem costs and what helps, as a sentence with its full stop; empty while all is well.
std::string page_lock_notice(const PageLock& lock);

/// Memory of the host that a GPU copies experts from.
class GpuHostMemory {
 public:
  GpuHostMemory() = default;
  GpuHostMemory(const GpuHostMemory&) = delete;
  GpuHostMemory& operator=(const GpuHostMemory&) = delete;
  virtual ~GpuHostMemory() = default;

  /// What is locked by now.
  [[nodiscard]] virtual PageLock page_lock() const = 0;
};

/// Whether experts are copied from RAM: streamed, or kept in a cache.
bool copies_experts(const RuntimeOptions& options);

/// Prepares the experts' memory, which must outlive it, in the background; nothing of it where none is
/// copied.
std::unique_ptr<const GpuHostMemory> prepare_host_memory(const offload::ExpertWeights& experts,
                                                         const RuntimeOptions& options);

/// `options` with `max_batch`, `tile`, `prefill` and `staging_bytes` as the model and the memory that is free
/// now allow, room for the planned cache left. Throws Error for --prefill stream that cannot be had, where
/// there are experts in RAM.
RuntimeOptions sized_for_gpu(const Model& model, const GpuWeights& weights,
                             const offload::ExpertWeights& experts, RuntimeOptions options);

/// Tokens of a pass, with resolved options, that the CPU's experts are given at most at a time.
int64_t most_cpu_tokens(const RuntimeOptions& options);

/// What a backend computes from.
struct GpuModel {
  const GpuWeights& weights;
  const offload::ExpertWeights& experts;
  const GpuHostMemory& host_memory;
};

/// References are kept. `options` are resolved (sized_for_gpu). Throws Error when working memory cannot be
/// had.
std::unique_ptr<Backend> make_gpu_backend(const Model& model, const GpuModel& parts,
                                          const RuntimeOptions& options, offload::Workers& workers);

}  // namespace sluice
