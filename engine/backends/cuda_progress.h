// What a stream has come to, told by the norm that begins each block: it writes a number to the host's
// memory, in a graph as well. After a kernel has failed CUDA names none, but that memory can still be read,
// and the host knows which kernels it launched for the block.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/launch_names.h"
#include "kernels_cuda/norm.h"

namespace sluice {

/// Blocks that begin with a norm. The head is of layer 0.
enum class CudaBlock : uint32_t { kAttention = 1, kFfn = 2, kHead = 3 };

/// Never 0.
uint32_t block_mark(CudaBlock block, int64_t layer);
/// "attention of layer 12", "feed-forward of layer 12", "the head"; "none" for 0.
std::string block_text(uint32_t mark);

class CudaProgress {
 public:
  /// Throws Error when memory cannot be had.
  CudaProgress();

  /// For the norm that begins a block, which this thread is about to launch.
  [[nodiscard]] cuda::Mark begin_of(CudaBlock block, int64_t layer);
  /// block_text() of the last block that began, and the kernels that were launched for it: "attention of
  /// layer 12 (one of rms_norm, gemv, rope)".
  [[nodiscard]] std::string text() const;

 private:
  cuda::PinnedBuffer<uint32_t> word_;
  std::unordered_map<uint32_t, cuda::LaunchNames> launches_;  // by block_mark
};

}  // namespace sluice
