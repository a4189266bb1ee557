// What the machine can do at best, measured in the same run: a benchmark reports its share of it.
#pragma once

#include <cstddef>
#include <span>

#include "kernels_cpu/isa.h"

namespace sluice::bench {

/// Bytes per second at which one thread reads `bytes` again and again: their size decides which cache
/// answers.
double read_bytes_per_second(cpu::Isa isa, std::span<const std::byte> bytes);

/// Float32 operations per second (a multiply-add is two) of one thread that does nothing else, in registers.
double fma_flops_per_second(cpu::Isa isa);

/// Operations per second (a multiply-add is two) of int8 dot products, in registers: the instruction that the
/// panel kernels of `isa` use, or pairs of products where there is none.
double int8_ops_per_second(cpu::Isa isa);

/// Seconds that no code on `isa` can beat: reading `bytes` (per call, `data` being where they lie) or
/// computing `flops`, whichever takes longer.
double floor_seconds(cpu::Isa isa, std::span<const std::byte> data, double bytes, double flops);

}  // namespace sluice::bench
