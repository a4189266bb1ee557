// What a GPU would refuse of a launch.
#pragma once

#include <cstdint>

#include "tests/cuda_emulator/block.h"

namespace sluice::emulator {

/// Later launches of `kernel` may have so much dynamic shared memory; without it 48 KB.
void allow_shared(const void* kernel, int64_t bytes);

/// Throws Error with the grid's name for more than that, blocks of no or more than 1024 threads, and grids
/// that are empty or too large.
void check_limits(const void* kernel, const Grid& grid);

}  // namespace sluice::emulator
