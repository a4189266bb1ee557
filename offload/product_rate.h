// How fast all cores multiply panels with many tokens: what prefill on the CPU goes by.
#pragma once

#include <stop_token>

#include "kernels_cpu/isa.h"
#include "offload/machine.h"

namespace sluice::offload {

/// 1e9 operations per second, a multiply-add being two: Q8_0 matrices as wide as DeepSeek-V3.2's and int8
/// activations of 64 tokens, which is what an expert meets of a prompt of two thousand. Takes half a second;
/// the best pass counts. 0 when it was stopped. Throws Error when there is no memory.
double measure_int8_gops(const Machine& machine, cpu::Isa isa, const std::stop_token& stop);

}  // namespace sluice::offload
