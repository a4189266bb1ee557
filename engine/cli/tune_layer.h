// Rates that only a layer as a whole shows: a synthetic one of DeepSeek-V3.2's shapes is computed as a model
// would be.
#pragma once

#include <stop_token>

#include "kernels_cpu/isa.h"
#include "offload/machine.h"
#include "offload/machine_profile.h"

namespace sluice::cli {

/// 1e9 operations per second of the routed experts on the CPU, a multiply-add being two: sixteen tokens for
/// each, as a prompt of 512 has. 0 when it was stopped. Throws Error when there is no memory for a gigabyte.
double measure_expert_gops(const offload::Machine& machine, cpu::Isa isa, const std::stop_token& stop);

/// Sets bf16_tflops and launch_us of `gpu`, whose other rates are known, by an MoE layer's part on the GPU:
/// 512 tokens at once, and one by one. False when it was stopped. Throws Error when CUDA fails or memory
/// lacks.
bool measure_gpu_layer(offload::GpuProfile& gpu, const std::stop_token& stop);

}  // namespace sluice::cli
