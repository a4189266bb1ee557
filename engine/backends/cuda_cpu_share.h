// The part of a batch that the CPU computes while the stream carries the busy experts to the GPU: rows of the
// tokens that chose its experts, to page-locked memory and their sums back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backends/backend.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"

namespace sluice {

struct CpuShareShape {
  int64_t max_rows = 0;
  int64_t d_model = 0;
  int64_t used = 0;  // experts per token
};

/// For one layer at a time: send(), receive(), then add_sum() when the sum is complete.
class CudaCpuShare {
 public:
  /// Throws Error when memory cannot be had. It takes none of a GPU.
  explicit CudaCpuShare(const CpuShareShape& shape);

  /// The tokens that chose an expert e with is_cpus[e], at most max_rows of them: their rows of f (bf16
  /// [n_tokens, d_model], on the GPU) go to the host. `routes` on the host. The sum of the layer before must
  /// have been added. Returns how many tokens that are. Does not wait.
  int64_t send(const offload::Routes& routes, std::span<const uint8_t> is_cpus, const uint16_t* f,
               cudaStream_t stream);
  /// Waits for the rows. Choices of other experts have ids below 0; `sum` is zeros.
  [[nodiscard]] Backend::Routed receive();
  /// x[t] += sum of the token's row; x [n_tokens, d_model] on the GPU. Does not wait.
  void add_sum(float* x, cudaStream_t stream) const;

 private:
  CpuShareShape shape_;
  cuda::PinnedBuffer<int32_t> list_;  // [rows]: their tokens
  cuda::PinnedBuffer<float> f_;       // [rows, d_model]
  cuda::PinnedBuffer<float> sum_;     // [rows, d_model]
  std::vector<int32_t> ids_;          // [rows, used]
  std::vector<float> weights_;        // [rows, used]
  cuda::Event sent_;
  int64_t rows_ = 0;
};

}  // namespace sluice
