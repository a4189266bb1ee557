// Results into page-locked memory with a flag behind them, and what the host answers from there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/host_flag.h"

namespace sluice::cuda {

inline constexpr int64_t kMostPostedParts = 3;

/// `words` of 4 bytes; both sides aligned to 16 bytes, one of them in page-locked memory.
struct PostedPart {
  const void* from = nullptr;
  void* to = nullptr;
  int64_t words = 0;
};

/// Counts the blocks of a call. One call at a time may use it.
class PostScratch {
 public:
  /// Throws Error.
  PostScratch();
  [[nodiscard]] uint32_t* arrived() const { return arrived_.data(); }

 private:
  DeviceBuffer<uint32_t> arrived_;  // zero between calls
};

/// Copies the parts, at most kMostPostedParts, and raises the flag: who sees it raised sees all of them. One
/// kernel. Throws Error for other alignments and when CUDA refuses the launch. Does not wait.
void post(std::span<const PostedPart> parts, const HostFlag& flag, const PostScratch& scratch,
          cudaStream_t stream);

/// y[i] += x[i], i < n, x in page-locked memory; both aligned to 16 bytes. Takes down the flag that was
/// waited for. As above.
void add_from_host(const float* x, int64_t n, float* y, const HostFlag& flag, cudaStream_t stream);

/// Copies part.words words from page-locked memory to the GPU, both aligned to 16 bytes, by a kernel: a copy
/// would wait behind those that the copy engine has to do. As above.
void fetch(const PostedPart& part, cudaStream_t stream);

}  // namespace sluice::cuda
