// The feed-forward half of a layer on a GPU: dense SwiGLU, router, shared expert (model specification 2.8).
#include "engine/backends/cuda_backend.h"
#include "kernels_cuda/router.h"

namespace sluice {

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
  norm_residual(layer.ffn_norm, n_tokens);
  ffn(layer.dense, n_tokens);
}

// The shared expert is put into the stream behind what the routed ones wait for: the GPU computes it
// meanwhile.
void CudaBackend::put_route(int64_t layer_index, int64_t n_tokens) {
  const CudaLayer& layer = layer_weights(layer_index);
  const cpu::RouterParams& router = config_.router;
  norm_residual(layer.ffn_norm, n_tokens);
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
  handover_.send(buffers_.normed, n_tokens, stream_.get());
  ffn(layer.shared, n_tokens);
}

Backend::Routed CudaBackend::route(int64_t layer, int64_t n_tokens) {
  if (!replays_) {
    put_route(layer, n_tokens);
    unanswered_ = 1;
  }
  return handover_.receive(n_tokens, stream_.get());
}

// The answer comes first: with CUDA_LAUNCH_BLOCKING a call returns when the stream has done it.
void CudaBackend::finish_experts(int64_t /*layer*/, int64_t n_tokens) {
  handover_.answer();
  --unanswered_;
  if (!replays_) {
    handover_.take_sum(buffers_.residual, n_tokens, stream_.get());
  }
}

}  // namespace sluice
