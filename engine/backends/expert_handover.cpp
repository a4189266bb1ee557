#include "engine/backends/expert_handover.h"

#include <immintrin.h>

#include <algorithm>

#include "kernels_cuda/base/check.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

/// Looks at the flag between two looks at the stream, which cost a driver call: about a millisecond.
constexpr int kLooks = 1 << 15;

/// True while work is left in the stream. Throws Error when it failed.
bool is_busy(cudaStream_t stream) {
  const cudaError_t state = cudaStreamQuery(stream);
  if (state == cudaErrorNotReady) {
    return true;
  }
  cuda::check(state, "a kernel before the routed experts");
  return false;
}

}  // namespace

ExpertHandover::ExpertHandover(const HandoverShape& shape)
    : shape_(shape),
      ids_(shape.max_tokens * shape.used),
      weights_(shape.max_tokens * shape.used),
      host_f_(shape.max_tokens * shape.d_model),
      host_ids_(shape.max_tokens * shape.used),
      host_weights_(shape.max_tokens * shape.used) {
  for (Sum& sum : sums_) {
    sum.values = cuda::PinnedBuffer<float>(shape.max_tokens * shape.d_model);
  }
}

void ExpertHandover::begin_pass() {
  taken_ = 0;
  received_ = 0;
}

void ExpertHandover::clear(Sum& sum, int64_t n_tokens) const {
  if (sum.zero_tokens < n_tokens) {
    std::fill_n(sum.values.data(), n_tokens * shape_.d_model, 0.0F);
    sum.zero_tokens = n_tokens;
  }
}

void ExpertHandover::send(const float* f, int64_t n_tokens, cudaStream_t stream) const {
  const cuda::PostedPart parts[] = {{f, host_f_.data(), n_tokens * shape_.d_model},
                                    {ids_.data(), host_ids_.data(), n_tokens * shape_.used},
                                    {weights_.data(), host_weights_.data(), n_tokens * shape_.used}};
  cuda::post(parts, sent_, scratch_, stream);
}

void ExpertHandover::take_sum(float* x, int64_t n_tokens, cudaStream_t stream) {
  summed_.wait_in(stream);
  cuda::add_from_host(sums_[taken_ % 2].values.data(), n_tokens * shape_.d_model, x, summed_, stream);
  ++taken_;
}

Backend::Routed ExpertHandover::receive(int64_t n_tokens, cudaStream_t stream) {
  for (int64_t looks = 1; !sent_.take_down(); ++looks) {
    _mm_pause();
    if (looks % kLooks == 0 && !is_busy(stream) && !sent_.is_raised()) {
      throw Error("hand-over to the routed experts", "tokens from the GPU", "a stream that has ended");
    }
  }
  Sum& sum = sums_[received_ % 2];
  ++received_;
  clear(sum, n_tokens);
  sum.zero_tokens = 0;
  n_tokens_ = n_tokens;
  return {
      .f = {host_f_.data(), n_tokens, shape_.d_model},
      .routes = {{host_ids_.data(), n_tokens, shape_.used}, {host_weights_.data(), n_tokens, shape_.used}},
      .sum = {sum.values.data(), n_tokens, shape_.d_model}};
}

// The other sum is free: what the GPU sent for this layer came after it had taken that.
void ExpertHandover::answer() {
  summed_.raise();
  clear(sums_[received_ % 2], n_tokens_);
}

void ExpertHandover::drain(cudaStream_t stream) {
  while (cudaStreamQuery(stream) == cudaErrorNotReady) {
    summed_.raise();
    _mm_pause();
  }
  static_cast<void>(sent_.take_down());
  static_cast<void>(summed_.take_down());
  begin_pass();
}

}  // namespace sluice
