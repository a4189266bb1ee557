// Bars of attention on the GPU: the lightning indexer, top-k, sparse and dense latent attention, at the real
// shapes.
#pragma once

#include "bench/cuda_floors.h"
#include "bench/report.h"

namespace sluice::bench {

void guard_cuda_attention(const CudaFloors& floors, Report& report);

}  // namespace sluice::bench
