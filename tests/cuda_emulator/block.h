// Runs the threads of a CUDA grid on a CPU: block after block, each thread of a block a fiber.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <functional>
#include <string_view>

namespace sluice::emulator {

struct Grid {
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;  // dynamic, of each block, filled with 0xFF before it begins
  std::string_view name;     // the kernel's, for messages
};

/// Calls `thread` once for every thread of the grid; it finds its place in threadIdx, blockIdx, blockDim and
/// gridDim (device_code.h). Returns when all have returned. One grid runs at a time in a process, others
/// wait.
///
/// Within a block the order of threads between barriers is random, and so is whether asynchronous copies
/// happen at once or as late as they may: SLUICE_TEST_SEED, or 1, begins the random numbers. Misuse of what
/// thread.h offers, threads that wait for each other, copies that nobody waited for and writes beside the
/// shared memory end the process: a line on stderr names kernel, block and thread.
void run_grid(const Grid& grid, const std::function<void()>& thread);

}  // namespace sluice::emulator
