// The routed experts of few tokens on the GPU: real shapes, experts rotated so that no cache holds them.
#pragma once

#include "bench/cuda_floors.h"

namespace sluice::bench {

/// Lines without a bar.
void report_cuda_chosen(const CudaFloors& floors);

}  // namespace sluice::bench
