// Bars of GEMV on the GPU: real shapes, weights rotated so that no cache holds them.
#pragma once

#include "bench/cuda_floors.h"
#include "bench/report.h"

namespace sluice::bench {

void guard_cuda_gemv(const CudaFloors& floors, Report& report);

}  // namespace sluice::bench
