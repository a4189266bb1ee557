#include "engine/backends/cuda_expert_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "engine/backends/cuda_expert_stream.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/elementwise.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

using offload::ExpertPart;

/// Experts on their way at a time. Chosen: some hundredths of what a token reads of RAM.
constexpr int64_t kMostCopies = 4;

std::vector<int64_t> layers_from(const offload::ExpertWeights& weights, int64_t first) {
  std::vector<int64_t> layers;
  for (int64_t layer = first; layer < weights.layers(); ++layer) {
    if (weights.experts(layer) > 0) {
      layers.push_back(layer);
    }
  }
  return layers;
}

ExpertCacheShape shape_of(const offload::ExpertWeights& weights, std::span<const int64_t> layers,
                          int64_t used, int64_t bytes) {
  // Others' memory is not page-locked (prepare_host_memory), so none would ever come.
  if (!can_be_streamed(weights)) {
    throw Error("--expert-cache", "quantized experts in memory",
                "mapped ones, or ones of a type that is not quantized");
  }
  const StreamedSizes sizes = streamed_sizes(weights);
  const ExpertCacheShape wish{.layers = static_cast<int64_t>(layers.size()),
                              .experts = sizes.experts,
                              .used = used,
                              .slot_bytes = sizes.expert_bytes};
  ExpertCacheShape shape = expert_cache_within(wish, bytes);
  if (shape.slots == 0) {
    ExpertCacheShape one = wish;
    one.slots = 1;
    throw Error(
        "--expert-cache", fmt::format("at least {} bytes, for an expert", expert_cache_bytes(one)),
        layers.empty() ? std::string("no experts of the GPU's layers in RAM") : std::to_string(bytes));
  }
  return shape;
}

}  // namespace

CudaExpertCache::CudaExpertCache(const offload::ExpertWeights& weights, const CudaPinnedStore& store,
                                 int64_t first_layer, int64_t used, int64_t bytes,
                                 const offload::ResidencyRules& rules)
    : weights_(weights),
      store_(store),
      layers_(layers_from(weights, first_layer)),
      indexes_(static_cast<size_t>(weights.layers()), -1),
      shape_(shape_of(weights, layers_, used, bytes)),
      arena_(expert_cache_bytes(shape_)),
      buffers_(shape_, arena_),
      residency_({.layers = shape_.layers, .experts = shape_.experts, .slots = shape_.slots}, rules),
      slot_of_(shape_.layers * shape_.experts),
      scales_(3 * shape_.slots),
      left_(static_cast<size_t>(kFewExpertTokens * used)) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    indexes_[static_cast<size_t>(layers_[i])] = static_cast<int64_t>(i);
    std::vector<CudaExpertLayer>& shares = shares_.emplace_back();
    for (int64_t node = 0; node < weights.nodes(); ++node) {
      const offload::ExpertShare& share = weights.share(layers_[i], node);
      if (share.rows.size() > 0) {
        shares.push_back(share_panels(share, buffers_.slots + node_offset(weights, layers_[i], node, 1),
                                      shape_.slot_bytes, shape_.slots,
                                      {buffers_.scales[0], buffers_.scales[1], buffers_.scales[2]}));
      }
    }
  }
  std::ranges::fill(slot_of_.values(), -1);
  std::ranges::fill(scales_.values(), 1.0F);
  upload(stream_.get());
  stream_.synchronize();
}

void CudaExpertCache::begin_pass(cudaStream_t stream) {
  told_.synchronize();  // what the last pass was told is about to change
  const bool arrived = take_arrived();
  const bool left = begin_copies(stream);
  if (arrived || left) {
    upload(stream);
  }
}

bool CudaExpertCache::take_arrived() {
  const auto waiting =
      std::ranges::find_if(copies_, [](const Copy& copy) { return !copy.done.is_reached(); });
  const bool any = waiting != copies_.begin();
  std::for_each(copies_.begin(), waiting, [&](const Copy& copy) { place(copy); });
  copies_.erase(copies_.begin(), waiting);
  return any;
}

void CudaExpertCache::place(const Copy& copy) {
  residency_.arrived(copy.expert);
  slot_of_.data()[copy.expert] = copy.slot;
  const int64_t layer = layers_[static_cast<size_t>(copy.expert / shape_.experts)];
  for (const ExpertPart part : {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown}) {
    scales_.data()[static_cast<int64_t>(part) * shape_.slots + copy.slot] =
        weights_.scale(layer, part, copy.expert % shape_.experts);
  }
}

// Copies wait until the passes so far are done: they may read what a slot had before.
bool CudaExpertCache::begin_copies(cudaStream_t stream) {
  if (!passed_) {
    return false;
  }
  passed_ = false;
  locked_ = locked_ || store_.is_locked();
  const int64_t most = locked_ ? kMostCopies - static_cast<int64_t>(copies_.size()) : 0;
  const std::span<const offload::ExpertReplacement> begun = residency_.end_token(most);
  if (begun.empty()) {
    return false;
  }
  passes_done_.record(stream);
  passes_done_.make_wait(stream_.get());
  bool left = false;
  for (const offload::ExpertReplacement& replacement : begun) {
    left = left || replacement.out != offload::ExpertReplacement::kFreeSlot;
    begin_copy(replacement);
  }
  return left;
}

void CudaExpertCache::begin_copy(const offload::ExpertReplacement& replacement) {
  int32_t slot = static_cast<int32_t>(next_free_);
  if (replacement.out == offload::ExpertReplacement::kFreeSlot) {
    ++next_free_;
  } else {
    slot = std::exchange(slot_of_.data()[replacement.out], -1);
  }
  assert(slot >= 0 && slot < shape_.slots);
  const int64_t layer = layers_[static_cast<size_t>(replacement.in / shape_.experts)];
  std::byte* const to = buffers_.slots + slot * shape_.slot_bytes;
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    copy(weights_.piece(layer, replacement.in % shape_.experts, node),
         to + node_offset(weights_, layer, node, 1));
  }
  copies_.push_back({.expert = replacement.in, .slot = slot, .done = cuda::Event()});
  copies_.back().done.record(stream_.get());
}

void CudaExpertCache::copy(std::span<const std::byte> from, std::byte* to) {
  store_.for_parts(from, [&](const CudaPinnedStore::Part& part, size_t offset) {
    cuda::check(cudaMemcpyAsync(to + offset, part.bytes.data(), part.bytes.size(), cudaMemcpyHostToDevice,
                                stream_.get()),
                "copying an expert into the cache");
  });
}

void CudaExpertCache::upload(cudaStream_t stream) {
  const auto copy = [&](void* to, const void* from, int64_t bytes) {
    cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
                "telling the GPU which experts it has");
  };
  copy(buffers_.slot_of, slot_of_.data(), slot_of_.size() * static_cast<int64_t>(sizeof(int32_t)));
  const int64_t scale_bytes = shape_.slots * static_cast<int64_t>(sizeof(float));
  for (int64_t part = 0; part < 3; ++part) {
    copy(buffers_.scales[part], scales_.data() + part * shape_.slots, scale_bytes);
  }
  told_.record(stream);
}

void CudaExpertCache::put(int64_t layer, const CudaRoutes& routes, const CudaExperts& experts, const float* f,
                          float* y, cudaStream_t stream) const {
  const int64_t index = index_of(layer);
  cuda::find_slots({.ids = routes.ids,
                    .slot_of = buffers_.slot_of + index * shape_.experts,
                    .slots = buffers_.slots_used,
                    .parts = buffers_.parts,
                    .choices = routes.n_tokens * shape_.used},
                   stream);
  for (const CudaExpertLayer& share : shares_[static_cast<size_t>(index)]) {
    experts.add(share, {buffers_.slots_used, routes.weights, routes.n_tokens, buffers_.parts}, f, y, stream);
  }
}

offload::Routes CudaExpertCache::take(int64_t layer, const offload::Routes& routes) {
  const int64_t index = index_of(layer);
  const int32_t* const slot_of = slot_of_.data() + index * shape_.experts;
  const MatrixView<int32_t> left(left_.data(), routes.ids.rows, shape_.used);
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    residency_.use(index, routes.ids.row(t));
    std::ranges::transform(routes.ids.row(t), left.row(t).begin(),
                           [&](int32_t id) { return slot_of[id] >= 0 ? -1 : id; });
    use_.hits += std::ranges::count(left.row(t), -1);
  }
  use_.choices += routes.ids.rows * shape_.used;
  passed_ = true;
  return {.ids = left, .weights = routes.weights};
}

}  // namespace sluice
