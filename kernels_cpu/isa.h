// Which instruction set the kernels run on: detected once, or forced by SLUICE_CPU_ISA.
#pragma once

#include <string_view>
#include <vector>

namespace sluice::cpu {

/// Worst to best. kAvx2 needs AVX2, FMA and F16C; kAvx512 needs F, BW, VL and DQ besides.
enum class Isa { kScalar, kAvx2, kAvx512 };

/// "scalar", "avx2", "avx512".
std::string_view isa_name(Isa isa);

/// Best first; scalar is always last. Asks the CPU and the operating system (XSAVE state), not the compiler.
std::vector<Isa> supported_isas();

/// The best supported one, or the one that the environment variable SLUICE_CPU_ISA names.
/// Throws Error when that names an unknown or unsupported one.
Isa chosen_isa();

}  // namespace sluice::cpu
