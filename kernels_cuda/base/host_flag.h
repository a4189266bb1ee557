// A word in page-locked memory by which host and stream wait for each other: no driver call, no callback and
// no kernel that spins.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels_cuda/base/buffer.h"

namespace sluice::cuda {

/// Raised by one side, taken down by the other one, which waited for it. Starts taken down.
class HostFlag {
 public:
  /// Throws Error when there is no memory.
  HostFlag();

  /// For kernels that raise it by storing 1, or take it down by storing 0 (post.h).
  [[nodiscard]] uint32_t* word() const { return word_.data(); }

  // The host's side. What was written before raise() is seen by whoever took the flag down.
  void raise() const;
  /// Whether it is raised; then it is taken down.
  [[nodiscard]] bool take_down() const;
  [[nodiscard]] bool is_raised() const;

  /// The stream goes on when the flag is raised; a kernel behind it takes it down. A memory operation of the
  /// stream, or a node of the graph that is captured from it. Throws Error when CUDA refuses.
  void wait_in(cudaStream_t stream) const;

 private:
  PinnedBuffer<uint32_t> word_;
};

}  // namespace sluice::cuda
