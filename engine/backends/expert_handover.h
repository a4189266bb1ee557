// The way of an MoE layer's tokens from the GPU to the routed experts on the CPU, and of their sum back,
// through page-locked memory and two flags in it. A kernel writes the tokens and raises the first, which the
// host polls; the host writes the sum and raises the second, on which the stream waits. No driver call waits.
//
//   stream  post(f, ids, weights)  [other work]  wait for `summed`, x += sum
//   host                   `sent`? compute the experts, raise `summed`
#pragma once

#include <cstdint>

#include "engine/backends/backend.h"
#include "engine/backends/gpu_working_memory.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/host_flag.h"
#include "kernels_cuda/post.h"

namespace sluice {

/// A pass is a number of layers, one at a time, all of as many tokens. In the stream, in this order: send()
/// after ids() and weights() are filled, then take_sum(); on the host receive(), then answer(). The stream's
/// part may be captured and repeated in later passes. Until answer() the stream stands still, so nothing may
/// be asked of CUDA that waits for it.
class ExpertHandover {
 public:
  /// Throws Error when memory cannot be had.
  explicit ExpertHandover(const HandoverShape& shape);

  /// Before the first layer of a pass, and before its part of the stream is captured.
  void begin_pass();

  /// Where the router writes, on the GPU: [n_tokens, used].
  [[nodiscard]] int32_t* ids() const { return ids_.data(); }
  [[nodiscard]] float* weights() const { return weights_.data(); }

  /// f [n_tokens, d_model], on the GPU.
  void send(const float* f, int64_t n_tokens, cudaStream_t stream) const;
  /// Waits for answer(), then x [n_tokens, d_model] (on the GPU) += sum.
  void take_sum(float* x, int64_t n_tokens, cudaStream_t stream);

  /// Polls for what was sent. `sum` is zeros. Throws Error when `stream` fails or ends without it.
  [[nodiscard]] Backend::Routed receive(int64_t n_tokens, cudaStream_t stream);
  /// The sum is complete: the stream may go on.
  void answer();

  /// Answers whatever `stream` still sends until it is done, with any sums: after a pass that was given up.
  void drain(cudaStream_t stream);

 private:
  /// Layers take turns with two, so that one is made zeros while the GPU computes.
  struct Sum {
    cuda::PinnedBuffer<float> values;  // [max_tokens, d_model]
    int64_t zero_tokens = 0;           // that are known to be zeros
  };
  void clear(Sum& sum, int64_t n_tokens) const;

  HandoverShape shape_;
  cuda::DeviceBuffer<int32_t> ids_;    // [max_tokens, used]
  cuda::DeviceBuffer<float> weights_;  // [max_tokens, used]
  cuda::PinnedBuffer<float> host_f_;
  cuda::PinnedBuffer<int32_t> host_ids_;
  cuda::PinnedBuffer<float> host_weights_;
  Sum sums_[2];
  int64_t taken_ = 0;     // layers of this pass that take_sum() was called for
  int64_t received_ = 0;  // layers of this pass that receive() was called for
  int64_t n_tokens_ = 0;  // of the last
  cuda::PostScratch scratch_;
  cuda::HostFlag sent_;
  cuda::HostFlag summed_;
};

}  // namespace sluice
