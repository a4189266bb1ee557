#include "engine/backends/cuda_experts.h"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <vector>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/chosen_experts.h"
#include "kernels_cuda/elementwise.h"

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
  cuda::chosen_experts({.gate = layer.gate,
                        .up = layer.up,
                        .down = layer.down,
                        .ids = routes.ids,
                        .used = shape_.used,
                        .n_tokens = routes.n_tokens,
                        .x = f,
                        .hidden = buffers_.hidden,
                        .y = buffers_.parts},
                       stream);
  cuda::add_experts({.parts = buffers_.parts,
                     .slots = routes.parts != nullptr ? routes.parts : buffers_.identity,
                     .weights = routes.weights,
                     .y = y,
                     .n_tokens = routes.n_tokens,
                     .used = shape_.used,
                     .n = shape_.d_model},
                    stream);
}

}  // namespace sluice
