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

/// Multiplies in registers for some 100 us, by the instruction that the panel kernels of `isa`
/// use, by pairs of products where there is none, or bf16 tile products for AMX. Returns the operations done
/// (a multiply-add is two).
double product_loop(cpu::Isa isa);

/// AMX: product_loop() whose tiles are loaded before they are multiplied, two of weights and two of
/// activations for four products, from L1: what any product of matrices has to do. Returns operations.
double loaded_tile_loop();

/// Seconds that no code on `isa` can beat: reading `bytes` (per call, `data` being where they lie) or
/// computing `flops`, whichever takes longer.
double floor_seconds(cpu::Isa isa, std::span<const std::byte> data, double bytes, double flops);

}  // namespace sluice::bench
