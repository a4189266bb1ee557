// The feed-forward half of a layer on the CPU: dense SwiGLU, router, shared expert (model specification 2.8).
#include "engine/backends/cpu_backend.h"

namespace sluice {
namespace {

constexpr int64_t kTokenGrain = 4;

}  // namespace

void CpuBackend::ffn(const FfnWeights& weights, MatrixView<const float> f, MatrixView<float> x) {
  const int64_t n = f.rows;
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

void CpuBackend::dense_ffn(int64_t layer_index, MatrixView<float> x) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const MatrixView<float> f = buffers_.normed.rows(x.rows);
  rms_norm(x, layer.ffn_norm, f);
  ffn(layer.dense, f, x);
}

Backend::Routed CpuBackend::route(int64_t layer_index, MatrixView<const float> x) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const MatrixView<float> f = buffers_.normed.rows(x.rows);
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
  return {f, {ids, weights}};
}

void CpuBackend::shared_expert(int64_t layer_index, MatrixView<const float> f, MatrixView<float> x) {
  ffn(model_.weights().layers[static_cast<size_t>(layer_index)].shared, f, x);
}

}  // namespace sluice
