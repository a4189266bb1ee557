// Copies from global to shared memory that run while the threads compute (cp.async, sm_80 and up).
#pragma once

#include <cstdint>

namespace sluice::cuda::device {

enum class Fill { kCopy, kZero };

/// 16 bytes, both sides aligned to 16; kZero writes zeros and reads nothing.
__device__ __forceinline__ void copy_16_async(uint32_t to_shared, const void* from, Fill fill) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to_shared), "l"(from), "r"(fill == Fill::kCopy ? 16 : 0)
               : "memory");
}

/// Ends a group: the copies of this thread since the last group's end. Groups may be empty.
__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most kPending of this thread's newest groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// A barrier of `threads` threads of the block; `id` in [1, 15] (0 is __syncthreads).
__device__ __forceinline__ void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace sluice::cuda::device
