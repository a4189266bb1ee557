#include "engine/backends/expert_handover.h"

#include <algorithm>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/elementwise.h"

namespace sluice {
namespace {

template <typename T>
void copy(T* to, const T* from, int64_t count, cudaMemcpyKind kind, cudaStream_t stream) {
  cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), kind, stream),
              "handing tokens over to the experts");
}

}  // namespace

ExpertHandover::ExpertHandover(const HandoverShape& shape)
    : shape_(shape),
      ids_(shape.max_tokens * shape.used),
      weights_(shape.max_tokens * shape.used),
      sum_(shape.max_tokens * shape.d_model),
      host_f_(shape.max_tokens * shape.d_model),
      host_ids_(shape.max_tokens * shape.used),
      host_weights_(shape.max_tokens * shape.used),
      host_sum_(shape.max_tokens * shape.d_model) {}

int64_t ExpertHandover::bytes_needed(const HandoverShape& shape) {
  return shape.max_tokens * (8 * shape.used + 4 * shape.d_model);
}

void ExpertHandover::send(const float* f, int64_t n_tokens, cudaStream_t stream) {
  copy<float>(host_f_.data(), f, n_tokens * shape_.d_model, cudaMemcpyDeviceToHost, stream);
  copy<int32_t>(host_ids_.data(), ids_.data(), n_tokens * shape_.used, cudaMemcpyDeviceToHost, stream);
  copy<float>(host_weights_.data(), weights_.data(), n_tokens * shape_.used, cudaMemcpyDeviceToHost, stream);
  sent_.record(stream);
}

Backend::Routed ExpertHandover::wait(int64_t n_tokens) const {
  sent_.synchronize();
  std::fill_n(host_sum_.data(), n_tokens * shape_.d_model, 0.0F);
  return {
      .f = {host_f_.data(), n_tokens, shape_.d_model},
      .routes = {{host_ids_.data(), n_tokens, shape_.used}, {host_weights_.data(), n_tokens, shape_.used}},
      .sum = {host_sum_.data(), n_tokens, shape_.d_model}};
}

void ExpertHandover::take_sum(float* x, int64_t n_tokens, cudaStream_t stream) const {
  const int64_t count = n_tokens * shape_.d_model;
  copy<float>(sum_.data(), host_sum_.data(), count, cudaMemcpyHostToDevice, stream);
  cuda::add_scaled(sum_.data(), 1.0F, count, x, stream);
}

}  // namespace sluice
