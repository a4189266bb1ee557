// Routed experts that are in RAM, those that recent tokens chose most, a second time in the memory of a GPU:
// of a decoded token's experts it computes these, and the CPU the others at the same time. Which ones is
// offload/expert_residency.h's to decide; they are copied by a stream of their own, and no token waits.
//
//   host     what has arrived, what to copy | ...  take(): counts, leaves the others to the CPU
//   compute  tables | ... router, products of the slots that the token chose ...
//   copy     wait for the pass before | experts to their slots
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backends/cuda_arena.h"
#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/cuda_experts.h"
#include "engine/backends/cuda_pinned_store.h"
#include "engine/backends/expert_cache_layout.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"
#include "offload/expert_residency.h"
#include "offload/expert_weights.h"
#include "offload/routes.h"

namespace sluice {

/// All calls come from one thread. Of a pass of up to kFewExpertTokens tokens: begin_pass(), then for each of
/// its layers put() and take(), in any order; the stream's part may be captured and repeated.
class CudaExpertCache {
 public:
  /// Of layers from `first_layer` on, in at most `bytes`; references are kept. Throws Error naming
  /// --expert-cache when not one expert has room or they are not of quantized types, and when memory cannot
  /// be had.
  CudaExpertCache(const offload::ExpertWeights& weights, const CudaPinnedStore& store, int64_t first_layer,
                  int64_t used, int64_t bytes, const offload::ResidencyRules& rules = {});

  /// What has arrived is there for this pass, what the last ones chose may begin to come; `stream` has all of
  /// those passes. Throws Error when a copy failed.
  void begin_pass(cudaStream_t stream);

  /// y[t] += the weighted outputs of the experts that t chose and that are here. routes.ids and
  /// routes.weights [n_tokens, used], f and y [n_tokens, d_model], all on the GPU; `experts` computes.
  void put(int64_t layer, const CudaRoutes& routes, const CudaExperts& experts, const float* f, float* y,
           cudaStream_t stream) const;

  /// The same choices on the host, all of them experts: they are counted, and those that put() computes
  /// become -1. Valid until the next call.
  [[nodiscard]] offload::Routes take(int64_t layer, const offload::Routes& routes);

  /// Experts that have room.
  [[nodiscard]] int64_t slots() const { return shape_.slots; }

  /// Choices so far, and how many of them were here.
  struct Use {
    int64_t choices = 0;
    int64_t hits = 0;
  };
  [[nodiscard]] Use use() const { return use_; }

 private:
  struct Copy {
    int32_t expert = 0;
    int32_t slot = 0;
    cuda::Event done;
  };

  [[nodiscard]] int64_t index_of(int64_t layer) const { return indexes_[static_cast<size_t>(layer)]; }
  bool take_arrived();
  bool begin_copies(cudaStream_t stream);
  void begin_copy(const offload::ExpertReplacement& replacement);
  void copy(std::span<const std::byte> from, std::byte* to);
  void place(const Copy& copy);
  void upload(cudaStream_t stream);

  const offload::ExpertWeights& weights_;
  const CudaPinnedStore& store_;
  std::vector<int64_t> layers_;   // ascending: the cached ones
  std::vector<int64_t> indexes_;  // [all layers]: in layers_, or -1
  ExpertCacheShape shape_;
  CudaArena arena_;
  ExpertCacheBuffers buffers_;
  std::vector<std::vector<CudaExpertLayer>> shares_;  // [layers_]: every slot as if it were an expert
  offload::ExpertResidency residency_;
  cuda::PinnedBuffer<int32_t> slot_of_;  // [layers_, experts], what the GPU is told
  cuda::PinnedBuffer<float> scales_;     // [3, slots]
  cuda::Event told_;
  int64_t next_free_ = 0;     // slots from here on were never used
  std::vector<Copy> copies_;  // under way, the first one begun first
  cuda::Event passes_done_;
  bool passed_ = false;        // take() was called since end_token()
  bool locked_ = false;        // the experts' memory, all of it
  std::vector<int32_t> left_;  // of take()
  Use use_;
  cuda::Stream stream_;
};

}  // namespace sluice
