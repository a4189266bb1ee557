// The feed-forward half of a layer on a GPU: dense SwiGLU, router, shared expert (model specification 2.8).
#include <vector>

#include "engine/backends/cuda_backend.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/router.h"

namespace sluice {

using Block = CudaBlockClock::Block;

void CudaBackend::ffn(const CudaFfn& weights, int64_t n) {
  const int64_t width = weights.gate.rows;
  const CudaRows hidden{buffers_.gate, n, width};
  const CudaProduct product{weights.down, {buffers_.block_output, n, config_.d_model}};
  products_.swiglu(weights.gate, weights.up, {buffers_.normed, n, config_.d_model}, hidden,
                   {buffers_.up, n, width}, stream_.get());
  products_.multiply({&product, 1}, hidden, stream_.get());
  add_block(n);
}

void CudaBackend::dense_ffn(int64_t layer, int64_t n_tokens) {
  if (!replays_) {
    put_dense_ffn(layer, n_tokens);
  }
}

void CudaBackend::put_dense_ffn(int64_t layer_index, int64_t n_tokens) {
  const CudaLayer& layer = layer_weights(layer_index);
  norm_residual(layer.ffn_norm, n_tokens, progress_.begin_of(CudaBlock::kFfn, layer_index));
  ffn(layer.dense, n_tokens);
  clock_.end_of(Block::kLayer, layer_index, stream_.get());
}

// Norm and router.
void CudaBackend::put_choice(int64_t layer_index, int64_t n_tokens) {
  const CudaLayer& layer = layer_weights(layer_index);
  const cpu::RouterParams& router = config_.router;
  norm_residual(layer.ffn_norm, n_tokens, progress_.begin_of(CudaBlock::kFfn, layer_index));
  const CudaProduct product{
      layer.router, {buffers_.router_logits, n_tokens, router.experts}, CudaRounding::kNone};
  products_.multiply({&product, 1}, {buffers_.normed, n_tokens, config_.d_model}, stream_.get());
  cuda::route({.logits = buffers_.router_logits,
               .bias = layer.router_bias,
               .n_tokens = n_tokens,
               .experts = router.experts,
               .experts_used = router.experts_used,
               .groups = router.groups,
               .groups_used = router.groups_used,
               .normalize = router.normalize,
               .scale = router.scale,
               .ids = handover_.ids(),
               .weights = handover_.weights()},
              stream_.get());
}

// The shared expert is put into the stream behind what the routed ones wait for: the GPU computes it
// meanwhile.
void CudaBackend::put_route(int64_t layer, int64_t n_tokens) {
  put_choice(layer, n_tokens);
  handover_.send(buffers_.normed, n_tokens, stream_.get());
  clock_.end_of(Block::kRoute, layer, stream_.get());
  ffn(layer_weights(layer).shared, n_tokens);
  clock_.end_of(Block::kShared, layer, stream_.get());
}

void CudaBackend::put_sum(int64_t layer, int64_t n_tokens) {
  handover_.take_sum(buffers_.residual, n_tokens, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
}

void CudaBackend::put_routed_ffn(int64_t layer, int64_t n_tokens) {
  put_choice(layer, n_tokens);
  clock_.end_of(Block::kRoute, layer, stream_.get());
  experts_->add(*expert_weights_.layer(layer), {handover_.ids(), handover_.weights(), n_tokens},
                buffers_.normed, buffers_.residual, stream_.get());
  ffn(layer_weights(layer).shared, n_tokens);
  clock_.end_of(Block::kShared, layer, stream_.get());
  clock_.end_of(Block::kLayer, layer, stream_.get());
}

bool CudaBackend::has_experts(int64_t layer) const {
  return expert_weights_.layer(layer) != nullptr;
}

void CudaBackend::routed_ffn(int64_t layer, const Batch& batch) {
  if (replays_) {
    return;
  }
  put_routed_ffn(layer, batch.n_tokens());
  if (batch.observer != nullptr) {
    observe_routes(layer, batch);
  }
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
  return handover_.receive(n_tokens, stream_.get());
}

// The answer comes first: with CUDA_LAUNCH_BLOCKING a call returns when the stream has done it.
void CudaBackend::finish_experts(int64_t layer, int64_t n_tokens) {
  handover_.answer();
  --unanswered_;
  if (!replays_) {
    put_sum(layer, n_tokens);
  }
}

}  // namespace sluice
