// All layers that a GPU has of one decoded token as one graph: a launch for the token, and the host only
// answers the MoE layers' hand-overs. What depends on the position is read by the kernels (lengths,
// positions); what the host lays out by it (grids, splits) is laid out for a bound, so that a graph serves
// all positions up to it.
#include <algorithm>
#include <bit>

#include "engine/backends/cuda_backend.h"
#include "kernels_cuda/base/check.h"

namespace sluice {
namespace {

// Chosen: sessions that take turns, or a position that passes a bound and is taken back.
constexpr size_t kMostGraphs = 8;
constexpr int64_t kLeastVisible = 256;

/// The bound of `visible` tokens of context: steps of a half or a third, so that little of a launch is in
/// vain.
int64_t bound_of(int64_t visible) {
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(visible)));
  const int64_t bound = visible <= power / 4 * 3 ? power / 4 * 3 : power;
  return std::max(bound, kLeastVisible);
}

}  // namespace

CudaBackend::TokenShape CudaBackend::token_shape(const Batch& batch) const {
  const auto& cache = dynamic_cast<const CudaCache&>(*batch.cache);
  const int64_t visible = batch.first_position + 1;
  int64_t bound = std::min(bound_of(visible), cache.capacity());
  // All positions of a graph select, or none does.
  if (config_.has_indexer && batch.attention == AttentionMode::kSparse && visible <= config_.index_top_k) {
    bound = std::min(bound, config_.index_top_k);
  }
  return {.cache = cache.rows(CachePart::kLatent, layers_.begin),
          .capacity = cache.capacity(),
          .type = cache.type(),
          .attention = batch.attention,
          .most_visible = bound};
}

const cuda::Graph& CudaBackend::token_graph(const Batch& batch) {
  const TokenShape shape = token_shape(batch);
  const auto known = std::ranges::find(graphs_, shape, &TokenGraph::shape);
  if (known != graphs_.end()) {
    std::rotate(known, known + 1, graphs_.end());
    return graphs_.back().graph;
  }
  if (graphs_.size() == kMostGraphs) {
    stream_.synchronize();  // the one that goes may still run
    graphs_.erase(graphs_.begin());
  }
  Batch widest = batch;
  widest.first_position = shape.most_visible - 1;
  graphs_.push_back({shape, cuda::Graph(stream_.get(), [&] { put_token(widest); })});
  handover_.begin_pass();
  return graphs_.back().graph;
}

void CudaBackend::put_token(const Batch& widest) {
  put_input(1);
  for (int64_t layer = layers_.begin; layer < layers_.end; ++layer) {
    put_attention(layer, widest);
    if (config_.is_dense_layer(layer)) {
      put_dense_ffn(layer, 1);
    } else if (is_resident(layer)) {
      put_resident_ffn(layer, {0, 1});
    } else {
      put_route(layer, 1);
      put_sum(layer, 1);
    }
  }
}

}  // namespace sluice
