// Kernels that begin while the one before them in the stream still runs (base/launch.cuh, launch_overlapping;
// sm_90 and newer). Elsewhere kernels follow each other anyway, and nothing is compiled.
#pragma once

#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda {

/// Lets the next kernel of the stream begin as soon as all blocks of this one have said so or ended.
__device__ __forceinline__ void let_next_begin() {
  ptx::launch_dependents();
}

/// Waits until the kernel before this one in the stream has ended and what it wrote is there. Before this, a
/// kernel that was launched to overlap writes nothing, and reads only what no kernel writes; or, past the L1,
/// what was there before a kernel that is known to let it begin after its own wait (chosen_stream.cuh).
__device__ __forceinline__ void wait_for_last() {
  ptx::wait_for_dependencies();
}

/// What most kernels begin with. Every block of a kernel that was launched to overlap has to wait, also one
/// that has nothing to do: the kernel's end tells the next one that all before it has ended.
__device__ __forceinline__ void follow_last() {
  let_next_begin();
  wait_for_last();
}

}  // namespace sluice::cuda
