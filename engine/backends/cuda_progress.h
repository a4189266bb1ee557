// What a stream has come to, told by the norm that begins each block: it writes a number to the host's
// memory, in a graph as well. After a kernel has failed CUDA names none, but that memory can still be read.
#pragma once

#include <cstdint>
#include <string>

#include "kernels_cuda/base/buffer.h"
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

  /// For the norm that begins a block.
  [[nodiscard]] cuda::Mark begin_of(CudaBlock block, int64_t layer) const;
  /// block_text() of the last block that began.
  [[nodiscard]] std::string text() const;

 private:
  cuda::PinnedBuffer<uint32_t> word_;
};

}  // namespace sluice
