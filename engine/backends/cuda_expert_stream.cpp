#include "engine/backends/cuda_expert_stream.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "engine/backends/device_layout.h"
#include "kernels_cuda/base/check.h"

namespace sluice {
namespace {

using offload::ExpertPart;

/// Of a slot, at most. Chosen: experts enough for a grouped product to fill a GPU.
constexpr int64_t kMostSlotBytes = int64_t{192} << 20;
/// Slots that a ring should have before slots become larger.
constexpr int64_t kWantedSlots = 4;
constexpr int64_t kBounces = 3;
constexpr int64_t kBounceBytes = int64_t{32} << 20;
constexpr int64_t kBounceGrain = int64_t{1} << 20;  // bytes that a worker copies at a time

}  // namespace

int64_t node_offset(const offload::ExpertWeights& weights, int64_t layer, int64_t node, int64_t experts) {
  int64_t offset = 0;
  for (int64_t before = 0; before < node; ++before) {
    offset += DeviceLayout::aligned(experts * weights.share(layer, before).piece_bytes());
  }
  return offset;
}

int64_t slot_bytes(const offload::ExpertWeights& weights, int64_t layer, int64_t experts) {
  return node_offset(weights, layer, weights.nodes(), experts);
}

CudaExpertLayer share_panels(const offload::ExpertShare& share, const std::byte* pieces, int64_t expert_bytes,
                             int64_t experts, const std::array<const float*, 3>& scales) {
  const auto panels = [&](ExpertPart part) {
    return cuda::ExpertPanels{
        .first = {.layout = share.layout(part),
                  .data = pieces + share.offset(part),
                  .rows = part == ExpertPart::kDown ? share.gate.cols : share.rows.size()},
        .expert_bytes = expert_bytes,
        .scales = scales[static_cast<size_t>(part)],
        .experts = experts};
  };
  return {panels(ExpertPart::kGate), panels(ExpertPart::kUp), panels(ExpertPart::kDown)};
}

StreamedSizes streamed_sizes(const offload::ExpertWeights& weights) {
  StreamedSizes sizes;
  for (int64_t layer = 0; layer < weights.layers(); ++layer) {
    if (weights.experts(layer) > 0) {
      sizes.expert_bytes = std::max(sizes.expert_bytes, slot_bytes(weights, layer, 1));
      sizes.experts = std::max(sizes.experts, weights.experts(layer));
    }
  }
  return sizes;
}

bool can_be_streamed(const offload::ExpertWeights& weights) {
  for (int64_t layer = 0; layer < weights.layers(); ++layer) {
    for (int64_t node = 0; weights.experts(layer) > 0 && node < weights.nodes(); ++node) {
      const offload::ExpertShare& share = weights.share(layer, node);
      if (weights.piece(layer, 0, node).size() != static_cast<size_t>(share.piece_bytes()) ||
          !cuda::panel_gemm_takes(share.gate.dtype) || !cuda::panel_gemm_takes(share.up.dtype) ||
          !cuda::panel_gemm_takes(share.down.dtype)) {
        return false;
      }
    }
  }
  return true;
}

StagingShape staging_shape(const StreamedSizes& sizes, int64_t bytes) {
  if (sizes.expert_bytes == 0) {
    return {};
  }
  const int64_t experts = std::min(bytes / sizes.expert_bytes, sizes.experts + kLeastSlots);
  const int64_t per_slot = std::clamp<int64_t>(experts / kWantedSlots, 1,
                                               std::max<int64_t>(1, kMostSlotBytes / sizes.expert_bytes));
  const int64_t slots = experts / per_slot;
  return slots < kLeastSlots ? StagingShape{}
                             : StagingShape{.slot_bytes = per_slot * sizes.expert_bytes, .slots = slots};
}

CudaExpertStream::CudaExpertStream(const offload::ExpertWeights& weights, const CudaPinnedStore& store,
                                   const StagingShape& shape, offload::Workers& workers)
    : weights_(weights),
      store_(store),
      workers_(workers),
      per_slot_(shape.slot_bytes / streamed_sizes(weights).expert_bytes),
      staging_(shape) {
  assert(per_slot_ > 0);
}

std::vector<ExpertGroup> CudaExpertStream::keep_begun(int64_t layer) {
  std::erase_if(wanted_, [&](const Slot& slot) { return slot.layer == layer; });
  std::vector<ExpertGroup> begun;
  for (const Slot& slot : begun_) {
    if (slot.layer == layer) {
      begun.push_back(slot.experts);
    }
  }
  return begun;
}

std::vector<ExpertGroup> CudaExpertStream::want(int64_t layer, std::span<const int32_t> experts) {
  std::vector<ExpertGroup> slots;
  while (!experts.empty()) {
    const auto some = experts.first(std::min(experts.size(), static_cast<size_t>(per_slot_)));
    slots.emplace_back(some.begin(), some.end());
    wanted_.push_back({layer, slots.back()});
    experts = experts.subspan(some.size());
  }
  return slots;
}

void CudaExpertStream::fill() {
  while (staging_.has_room() && !wanted_.empty()) {
    fill_slot(wanted_.front());
    begun_.push_back(std::move(wanted_.front()));
    wanted_.pop_front();
  }
}

// Experts that follow each other in memory are one copy.
void CudaExpertStream::fill_slot(const Slot& slot) {
  std::byte* const to = staging_.begin_fill(stream_.get());
  int64_t total = 0;
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    std::byte* there = to + node_offset(weights_, slot.layer, node, per_slot_);
    std::span<const std::byte> run;
    for (const int32_t expert : slot.experts) {
      const std::span<const std::byte> piece = weights_.piece(slot.layer, expert, node);
      total += static_cast<int64_t>(piece.size());
      if (run.data() + run.size() == piece.data()) {
        run = {run.data(), run.size() + piece.size()};
        continue;
      }
      copy(run, there);
      there += run.size();
      run = piece;
    }
    copy(run, there);
  }
  staging_.end_fill(stream_.get());
  filling_bytes_.push_back(total);
}

void CudaExpertStream::copy(std::span<const std::byte> from, std::byte* to) {
  store_.for_parts(from, [&](const CudaPinnedStore::Part& part, size_t offset) {
    if (part.locked) {
      cuda::check(cudaMemcpyAsync(to + offset, part.bytes.data(), part.bytes.size(), cudaMemcpyHostToDevice,
                                  stream_.get()),
                  "copying experts to the GPU");
    } else {
      copy_by_bounce(part.bytes, to + offset);
    }
  });
}

void CudaExpertStream::copy_by_bounce(std::span<const std::byte> from, std::byte* to) {
  if (bounces_.empty()) {
    bounces_.resize(kBounces);
    for (Bounce& bounce : bounces_) {
      bounce.memory = cuda::PinnedBuffer<std::byte>(kBounceBytes);
    }
  }
  while (!from.empty()) {
    const auto bytes = std::min(from.size(), static_cast<size_t>(kBounceBytes));
    Bounce& bounce = bounces_[next_bounce_++ % bounces_.size()];
    bounce.copied.synchronize();
    workers_.for_ranges(static_cast<int64_t>(bytes), kBounceGrain, [&](int64_t begin, int64_t end, int64_t) {
      std::memcpy(bounce.memory.data() + begin, from.data() + begin, static_cast<size_t>(end - begin));
    });
    cuda::check(cudaMemcpyAsync(to, bounce.memory.data(), bytes, cudaMemcpyHostToDevice, stream_.get()),
                "copying experts to the GPU");
    bounce.copied.record(stream_.get());
    from = from.subspan(bytes);
    to += bytes;
  }
}

const std::byte* CudaExpertStream::take(cudaStream_t compute) {
  assert(!begun_.empty());
  begun_.pop_front();
  return staging_.take(compute);
}

std::vector<CudaExpertLayer> CudaExpertStream::shares(int64_t layer, const std::byte* slot,
                                                      const std::array<const float*, 3>& scales) const {
  std::vector<CudaExpertLayer> shares;
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    const offload::ExpertShare& share = weights_.share(layer, node);
    if (share.rows.size() == 0) {
      continue;
    }
    shares.push_back(share_panels(share, slot + node_offset(weights_, layer, node, per_slot_),
                                  share.piece_bytes(), per_slot_, scales));
  }
  return shares;
}

void CudaExpertStream::reset() {
  static_cast<void>(cudaStreamSynchronize(stream_.get()));
  filling_bytes_.clear();
  begun_.clear();
  wanted_.clear();
  staging_.reset();
}

CudaExpertStream::Copied CudaExpertStream::copied() {
  const CudaStaging::Filling filling = staging_.collect_times();
  for (int64_t i = 0; i < filling.slots; ++i) {
    copied_.bytes += filling_bytes_.front();
    filling_bytes_.pop_front();
  }
  copied_.ns += filling.ns;
  return copied_;
}

}  // namespace sluice
