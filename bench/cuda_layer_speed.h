// One MoE layer of DeepSeek-V3.2's shape with its experts in memory: the whole against its parts.
#pragma once

#include "bench/report.h"

namespace sluice::bench {

/// Decoded tokens of a model of random weights, NVFP4 experts. Takes some seconds, 2 GB of GPU memory and as
/// much of the machine's. Needs a GPU.
void guard_cuda_layer(Report& report);

}  // namespace sluice::bench
