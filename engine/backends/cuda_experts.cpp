#include "engine/backends/cuda_experts.h"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <vector>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/head_product.h"

namespace sluice {

CudaExperts::CudaExperts(const CudaExpertShape& shape)
    : shape_(shape), arena_(expert_buffer_bytes(shape)), buffers_(shape, arena_) {
  std::vector<int32_t> identity(
      static_cast<size_t>(std::min(shape.max_tokens, kFewExpertTokens) * shape.used));
  std::iota(identity.begin(), identity.end(), 0);
  cuda::copy_to_gpu(buffers_.identity, std::as_bytes(std::span(identity)), "cudaMemcpy");
}

void CudaExperts::add(const CudaExpertLayer& layer, const CudaRoutes& routes, const float* f, float* y,
                      cudaStream_t stream) const {
  if (routes.parts != nullptr) {
    assert(routes.n_tokens <= kFewExpertTokens);
    add_few(layer, routes, f, y, stream);
    return;
  }
  for (int64_t begin = 0; begin < routes.n_tokens; begin += kFewExpertTokens) {
    const int64_t n = std::min(kFewExpertTokens, routes.n_tokens - begin);
    add_few(layer, {routes.ids + begin * shape_.used, routes.weights + begin * shape_.used, n},
            f + begin * shape_.d_model, y + begin * shape_.d_model, stream);
  }
}

void CudaExperts::add_few(const CudaExpertLayer& layer, const CudaRoutes& routes, const float* f, float* y,
                          cudaStream_t stream) const {
  const int64_t used = shape_.used;
  const int64_t hidden = layer.gate.first.rows;  // of a NUMA node's share fewer than d_expert
  const auto multiply = [&](const cuda::ExpertPanels& w, const float* x, int64_t x_stride, int64_t x_part,
                            float* out) {
    cuda::chosen_product({.w = w.first,
                          .matrix_bytes = w.expert_bytes,
                          .scales = w.scales,
                          .ids = routes.ids,
                          .used = used,
                          .n_tokens = routes.n_tokens,
                          .x = x,
                          .x_stride = x_stride,
                          .x_part_stride = x_part,
                          .y = out,
                          .y_stride = used * w.first.rows,
                          .y_part_stride = w.first.rows},
                         stream);
  };
  multiply(layer.gate, f, shape_.d_model, 0, buffers_.gate);
  multiply(layer.up, f, shape_.d_model, 0, buffers_.up);
  cuda::swiglu(buffers_.gate, buffers_.up, routes.n_tokens * used * hidden, buffers_.gate, stream);
  multiply(layer.down, buffers_.gate, used * hidden, hidden, buffers_.parts);
  cuda::add_experts({.parts = buffers_.parts,
                     .slots = routes.parts != nullptr ? routes.parts : buffers_.identity,
                     .weights = routes.weights,
                     .y = y,
                     .n_tokens = routes.n_tokens,
                     .used = used,
                     .n = shape_.d_model},
                    stream);
}

}  // namespace sluice
