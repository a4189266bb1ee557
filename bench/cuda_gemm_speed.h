// Products of panels with many tokens on the GPU: through cuBLAS, and decoded in registers, for one matrix
// and for the experts of a layer.
#pragma once

#include "bench/cuda_floors.h"

namespace sluice::bench {

/// Lines without bars.
void report_cuda_gemm(const CudaFloors& floors);

}  // namespace sluice::bench
