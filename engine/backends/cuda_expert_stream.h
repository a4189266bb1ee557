// Routed experts on their way from memory to the GPU: slot after slot of a layer, and on into the next layer,
// as far as the ring of slots has room.
//
// A slot holds experts of one layer, ascending: for each NUMA node their pieces (offload/expert_store.h) one
// after the other.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/cuda_pinned_store.h"
#include "engine/backends/cuda_staging.h"
#include "engine/backends/pass_choices.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"
#include "offload/expert_weights.h"
#include "offload/staging_ring.h"
#include "offload/workers.h"

namespace sluice {

/// Bytes of a slot that holds `experts` experts of a layer, and where a node's pieces begin in it.
int64_t slot_bytes(const offload::ExpertWeights& weights, int64_t layer, int64_t experts);
int64_t node_offset(const offload::ExpertWeights& weights, int64_t layer, int64_t node, int64_t experts);

/// A node's share of `experts` experts of a layer whose pieces lie on the GPU, the first at `pieces` and
/// `expert_bytes` from one to the next; `scales` are gate's, up's and down's of each, or null.
CudaExpertLayer share_panels(const offload::ExpertShare& share, const std::byte* pieces, int64_t expert_bytes,
                             int64_t experts, const std::array<const float*, 3>& scales);

/// What passes through a ring, of the layers that have experts.
struct StreamedSizes {
  int64_t expert_bytes = 0;  // a slot for the largest expert
  int64_t experts = 0;       // of a layer, at most
};
StreamedSizes streamed_sizes(const offload::ExpertWeights& weights);
/// Whether all of them lie in memory in types that can be computed from a slot.
bool can_be_streamed(const offload::ExpertWeights& weights);

/// A ring for such experts of at most `bytes`, and of no more than a layer; no slots when not even
/// kLeastSlots of one expert fit.
inline constexpr int64_t kLeastSlots = offload::kLeastStagedExperts;
StagingShape staging_shape(const StreamedSizes& sizes, int64_t bytes);

/// All calls come from one thread.
class CudaExpertStream {
 public:
  /// References are kept. The workers help with what `store` has not locked. Throws Error when memory cannot
  /// be had.
  CudaExpertStream(const offload::ExpertWeights& weights, const CudaPinnedStore& store,
                   const StagingShape& shape, offload::Workers& workers);

  /// Slots of `layer` that are copied or being copied, in order; what else was wanted of it is forgotten.
  [[nodiscard]] std::vector<ExpertGroup> keep_begun(int64_t layer);
  /// `experts`, ascending, of `layer` are copied when those that were wanted before are. Returns their slots.
  std::vector<ExpertGroup> want(int64_t layer, std::span<const int32_t> experts);
  /// Begins all copies that the ring has room for. Waits only for memory that is not page-locked yet.
  void fill();

  /// The next slot, on the GPU: `compute` reads it after this, and release() follows. fill() has begun it.
  const std::byte* take(cudaStream_t compute);
  void release(cudaStream_t compute) { staging_.release(compute); }

  /// The experts of a slot of `layer` that take() gave, one after the other: what each node has of them. With
  /// their scales, gate's, up's and down's.
  [[nodiscard]] std::vector<CudaExpertLayer> shares(int64_t layer, const std::byte* slot,
                                                    const std::array<const float*, 3>& scales) const;

  /// Forgets everything, after the copies that are under way, failed or not. `compute` must be idle.
  void reset();

  /// Of all copies so far that are done.
  struct Copied {
    int64_t bytes = 0;
    int64_t ns = 0;  // that the copy stream was busy
  };
  [[nodiscard]] Copied copied();

 private:
  struct Slot {
    int64_t layer = 0;
    ExpertGroup experts;
  };
  struct Bounce {
    cuda::PinnedBuffer<std::byte> memory;
    cuda::Event copied;
  };

  void fill_slot(const Slot& slot);
  void copy(std::span<const std::byte> from, std::byte* to);
  void copy_by_bounce(std::span<const std::byte> from, std::byte* to);

  const offload::ExpertWeights& weights_;
  const CudaPinnedStore& store_;
  offload::Workers& workers_;
  int64_t per_slot_;
  CudaStaging staging_;
  std::deque<Slot> begun_;       // filled and not taken
  std::deque<Slot> wanted_;      // not begun
  std::vector<Bounce> bounces_;  // made when first needed
  size_t next_bounce_ = 0;
  std::deque<int64_t> filling_bytes_;  // of slots whose time was not collected
  Copied copied_;
  cuda::Stream stream_;  // last: destroyed first, and by then reset() or the owner waited for it
};

}  // namespace sluice
