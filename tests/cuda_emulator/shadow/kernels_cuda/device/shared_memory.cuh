// kernels_cuda/device/shared_memory.cuh for the emulator.
#pragma once

#include "tests/cuda_emulator/thread.h"

namespace sluice::cuda::device {

/// The block's dynamic shared memory, aligned to 128 bytes.
template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::shared_memory());
}

}  // namespace sluice::cuda::device
