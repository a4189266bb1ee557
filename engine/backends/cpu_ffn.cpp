// The feed-forward half of a layer on the CPU: dense SwiGLU, router, shared expert (model specification 2.8).
#include "engine/backends/cpu_backend.h"

namespace sluice {
namespace {

constexpr int64_t kTokenGrain = 4;

}  // namespace

void CpuBackend::ffn(const FfnWeights& weights, int64_t n) {
  const MatrixView<const float> f = buffers_.normed.rows(n);
  const MatrixView<float> x = buffers_.residual.rows(n);
  const int64_t width = weights.gate.rows;
  const MatrixView<float> gate = buffers_.gate.rows(n).cols_from(0, width);
  const MatrixView<float> up = buffers_.up.rows(n).cols_from(0, width);
  const MatrixView<float> output = buffers_.block_output.rows(n);
  const Product products[] = {{&weights.gate, gate}, {&weights.up, up}};
  matmul(products, f);
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.swiglu(gate.row(t).data(), up.row(t).data(), width, gate.row(t).data());
    }
  });
  matmul(weights.down, gate, output);
  for (int64_t t = 0; t < n; ++t) {
    kernels_.add_scaled(output.row(t).data(), 1.0F, config_.d_model, x.row(t).data());
  }
}

void CpuBackend::dense_ffn(int64_t layer_index, int64_t n_tokens) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  rms_norm(buffers_.residual.rows(n_tokens), layer.ffn_norm, buffers_.normed.rows(n_tokens));
  ffn(layer.dense, n_tokens);
}

Backend::Routed CpuBackend::route(int64_t layer_index, int64_t n_tokens) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const MatrixView<float> x = buffers_.residual.rows(n_tokens);
  const MatrixView<float> f = buffers_.normed.rows(n_tokens);
  const MatrixView<float> logits = buffers_.router_logits.rows(x.rows);
  const MatrixView<float> weights = buffers_.route_weights.rows(x.rows);
  const MatrixView<int32_t> ids(buffers_.route_ids.data(), x.rows, config_.router.experts_used);
  rms_norm(x, layer.ffn_norm, f);
  matmul(layer.router, f, logits);
  workers_.for_ranges(x.rows, kTokenGrain, [&](int64_t begin, int64_t end, int64_t worker) {
    for (int64_t t = begin; t < end; ++t) {
      cpu::route_token(config_.router, logits.row(t), layer.router_bias, ids.row(t), weights.row(t),
                       scratch_[static_cast<size_t>(worker)].floats);
    }
  });
  return {f, {ids, weights}, x};
}

// The routed experts were added to the stream itself.
void CpuBackend::finish_experts(int64_t layer_index, int64_t n_tokens) {
  ffn(model_.weights().layers[static_cast<size_t>(layer_index)].shared, n_tokens);
}

}  // namespace sluice
