// For the emulator's own tests.
#pragma once

#include <functional>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/thread.h"

namespace sluice::emulator {

/// One block of `threads` threads.
inline void run_block(unsigned threads, const std::function<void()>& thread, int64_t shared_bytes = 0) {
  run_grid({.grid = dim3(1), .block = dim3(threads), .shared_bytes = shared_bytes, .name = "tested"}, thread);
}

/// Its dynamic shared memory.
template <typename T>
T* dynamic_shared() {
  return DynamicShared();
}

}  // namespace sluice::emulator
