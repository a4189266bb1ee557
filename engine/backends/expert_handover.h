// The way of an MoE layer's tokens from the GPU to the routed experts on the CPU, and of their sum back. In
// this form by copies into page-locked memory and one wait of the host per layer.
#pragma once

#include <cstdint>

#include "engine/backends/backend.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"

namespace sluice {

struct HandoverShape {
  int64_t max_tokens = 0;
  int64_t d_model = 0;
  int64_t used = 0;  // experts per token
};

/// One layer at a time: ids() and weights() are filled, send(), wait(), the host computes, take_sum().
class ExpertHandover {
 public:
  /// Throws Error when memory cannot be had.
  explicit ExpertHandover(const HandoverShape& shape);

  /// GPU memory that it takes.
  static int64_t bytes_needed(const HandoverShape& shape);

  /// Where the router writes, on the GPU: [n_tokens, used].
  [[nodiscard]] int32_t* ids() const { return ids_.data(); }
  [[nodiscard]] float* weights() const { return weights_.data(); }

  /// Brings f [n_tokens, d_model] (on the GPU) and the routes to the host, after what is in `stream`. Does
  /// not wait.
  void send(const float* f, int64_t n_tokens, cudaStream_t stream);
  /// Waits for what was sent, and for nothing that came into the stream after it. `sum` is zeros.
  [[nodiscard]] Backend::Routed wait(int64_t n_tokens) const;
  /// x [n_tokens, d_model] (on the GPU) += sum, in `stream`. Does not wait; the next send() of the same
  /// stream makes the sum free again.
  void take_sum(float* x, int64_t n_tokens, cudaStream_t stream) const;

 private:
  HandoverShape shape_;
  cuda::DeviceBuffer<int32_t> ids_;    // [max_tokens, used]
  cuda::DeviceBuffer<float> weights_;  // [max_tokens, used]
  cuda::DeviceBuffer<float> sum_;      // [max_tokens, d_model]
  cuda::PinnedBuffer<float> host_f_;
  cuda::PinnedBuffer<int32_t> host_ids_;
  cuda::PinnedBuffer<float> host_weights_;
  cuda::PinnedBuffer<float> host_sum_;
  cuda::Event sent_;
};

}  // namespace sluice
