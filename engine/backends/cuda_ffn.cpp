// The feed-forward half of a layer on a GPU: dense SwiGLU, router, shared expert (model specification 2.8).
#include <cassert>
#include <vector>

#include "engine/backends/cuda_backend.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/router.h"

namespace sluice {

using Block = CudaBlockClock::Block;

void CudaBackend::ffn(const CudaFfn& weights, RowRange rows) {
  const int64_t n = rows.count;
  const int64_t width = weights.gate.rows;
  const CudaRows hidden{buffers_.gate, n, width};
  const CudaProduct product{weights.down, {buffers_.block_output, n, config_.d_model}};
  products_.swiglu(weights.gate, weights.up, {buffers_.normed, n, config_.d_model}, hidden,
                   {buffers_.up, n, width}, stream_.get());
  products_.multiply({&product, 1}, hidden, stream_.get());
  add_block(rows);
}

void CudaBackend::dense_ffn(int64_t layer, int64_t n_tokens) {
  if (!replays_) {
    put_dense_ffn(layer, n_tokens);
  }
}

void CudaBackend::put_dense_ffn(int64_t layer_index, int64_t n_tokens) {
  const CudaLayer& layer = layer_weights(layer_index);
  for_tiles(n_tokens, [&](RowRange rows) {
    norm_residual(layer.ffn_norm, rows, progress_.begin_of(CudaBlock::kFfn, layer_index));
    ffn(layer.dense, rows);
  });
  clock_.end_of(Block::kLayer, layer_index, stream_.get());
}

void CudaBackend::put_choice(int64_t layer_index, RowRange rows, int32_t* ids, float* weights) {
  const CudaLayer& layer = layer_weights(layer_index);
  const cpu::RouterParams& router = config_.router;
  norm_residual(layer.ffn_norm, rows, progress_.begin_of(CudaBlock::kFfn, layer_index));
  const CudaProduct product{
      layer.router, {buffers_.router_logits, rows.count, router.experts}, CudaRounding::kNone};
  products_.multiply({&product, 1}, {buffers_.normed, rows.count, config_.d_model}, stream_.get());
  cuda::route({.logits = buffers_.router_logits,
               .bias = layer.router_bias,
               .n_tokens = rows.count,
               .experts = router.experts,
               .experts_used = router.experts_used,
               .groups = router.groups,
               .groups_used = router.groups_used,
               .normalize = router.normalize,
               .scale = router.scale,
               .ids = ids,
               .weights = weights},
              stream_.get());
}

// The shared expert, and routed ones that are cached, are put into the stream behind what the others wait
// for: the GPU computes them meanwhile.
void CudaBackend::put_route(int64_t layer, int64_t n_tokens) {
  assert(n_tokens <= tile_);
  const RowRange rows{0, n_tokens};
  put_choice(layer, rows, handover_.ids(), handover_.weights());
  handover_.send(buffers_.normed, n_tokens, stream_.get());
  clock_.end_of(Block::kRoute, layer, stream_.get());
  if (caching_) {
    expert_cache_->put(layer, {handover_.ids(), handover_.weights(), n_tokens}, *experts_, buffers_.normed,
                       residual_at(rows), stream_.get());
  }
  ffn(layer_weights(layer).shared, rows);
  clock_.end_of(Block::kShared, layer, stream_.get());
}

void CudaBackend::put_sum(int64_t layer, int64_t n_tokens) {
  handover_.take_sum(buffers_.residual, n_tokens, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
}

void CudaBackend::put_resident_ffn(int64_t layer, RowRange rows) {
  put_choice(layer, rows, handover_.ids(), handover_.weights());
  clock_.end_of(Block::kRoute, layer, stream_.get());
  experts_->add(*expert_weights_.layer(layer), {handover_.ids(), handover_.weights(), rows.count},
                buffers_.normed, residual_at(rows), stream_.get());
  ffn(layer_weights(layer).shared, rows);
  clock_.end_of(Block::kShared, layer, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
}

bool CudaBackend::computes_experts(int64_t layer) const {
  return is_resident(layer) || streaming_;
}

std::optional<Backend::Routed> CudaBackend::routed_ffn(int64_t layer, const Batch& batch) {
  if (replays_) {
    return {};
  }
  if (!is_resident(layer)) {
    return stream_experts(layer, batch);
  }
  if (pass_experts_.has_value() && batch.n_tokens() > kFewExpertTokens &&
      CudaPassExperts::takes(*expert_weights_.layer(layer))) {
    add_resident_experts(layer, batch);
    return {};
  }
  for_tiles(batch.n_tokens(), [&](RowRange rows) {
    put_resident_ffn(layer, rows);
    if (batch.observer != nullptr) {
      observe_routes(layer, batch.part(rows.begin, rows.count));
    }
  });
  return {};
}

void CudaBackend::put_choices(int64_t layer, int64_t n_tokens) {
  for_tiles(n_tokens, [&](RowRange rows) {
    put_choice(layer, rows, pass_experts_->ids(rows.begin), pass_experts_->weights(rows.begin));
    pass_experts_->put_rows(buffers_.normed, rows, stream_.get());
  });
}

// The experts' rows are kept for the pass, the shared expert's are normed again.
void CudaBackend::put_shared(int64_t layer, int64_t n_tokens) {
  for_tiles(n_tokens, [&](RowRange rows) {
    norm_residual(layer_weights(layer).ffn_norm, rows, progress_.begin_of(CudaBlock::kFfn, layer));
    ffn(layer_weights(layer).shared, rows);
  });
}

// The choices of all tiles go to the host before the shared expert is computed, so that the GPU has something
// to do while they are sorted there. As in stream_experts() a stop leaves the layer half done.
void CudaBackend::add_resident_experts(int64_t layer, const Batch& batch) {
  const int64_t n = batch.n_tokens();
  put_choices(layer, n);
  pass_experts_->send_routes(n, stream_.get());
  clock_.end_of(Block::kRoute, layer, stream_.get());
  put_shared(layer, n);
  const offload::Routes routes = pass_experts_->receive_routes();
  if (batch.stop.stop_requested()) {
    return;
  }
  pass_experts_->add_all(*expert_weights_.layer(layer), buffers_.residual, stream_.get());
  clock_.end_of(Block::kShared, layer, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
  if (batch.observer != nullptr) {
    batch.observer->routes(layer, batch.first_position, routes);
  }
}

std::optional<Backend::Routed> CudaBackend::stream_experts(int64_t layer, const Batch& batch) {
  const int64_t n = batch.n_tokens();
  put_choices(layer, n);
  prefill_->send_routes(n, stream_.get());
  clock_.end_of(Block::kRoute, layer, stream_.get());
  put_shared(layer, n);
  clock_.end_of(Block::kShared, layer, stream_.get());
  const std::optional<Routed> left =
      prefill_->run({.layer = layer, .next = streamed_layer(layer + 1), .n_tokens = n}, buffers_.residual,
                    batch.stop, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
  if (batch.observer != nullptr) {
    batch.observer->routes(layer, batch.first_position, pass_experts_->routes());
  }
  return left;
}

void CudaBackend::observe_routes(int64_t layer, const Batch& batch) {
  const int64_t used = config_.router.experts_used;
  const auto count = static_cast<size_t>(batch.n_tokens() * used);
  std::vector<int32_t> ids(count);
  std::vector<float> weights(count);
  stream_.synchronize();
  cuda::check(cudaMemcpy(ids.data(), handover_.ids(), count * sizeof(int32_t), cudaMemcpyDeviceToHost),
              "reading routes");
  cuda::check(cudaMemcpy(weights.data(), handover_.weights(), count * sizeof(float), cudaMemcpyDeviceToHost),
              "reading routes");
  batch.observer->routes(layer, batch.first_position,
                         {{ids.data(), batch.n_tokens(), used}, {weights.data(), batch.n_tokens(), used}});
}

Backend::Routed CudaBackend::route(int64_t layer, int64_t n_tokens) {
  if (!replays_) {
    put_route(layer, n_tokens);
    unanswered_ = 1;
  }
  Routed routed = handover_.receive(n_tokens, stream_.get());
  if (caching_) {
    routed.routes = expert_cache_->take(layer, routed.routes);
  }
  return routed;
}

// The answer comes first: with CUDA_LAUNCH_BLOCKING a call returns when the stream has done it.
void CudaBackend::finish_experts(int64_t layer, int64_t n_tokens) {
  if (streaming_) {
    prefill_->finish(buffers_.residual, stream_.get());
    clock_.end_of(Block::kLayer, layer, stream_.get());
    return;
  }
  handover_.answer();
  --unanswered_;
  if (!replays_) {
    put_sum(layer, n_tokens);
  }
}

}  // namespace sluice
