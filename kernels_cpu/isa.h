// Which instruction set the kernels run on: detected once, or forced by SLUICE_CPU_ISA.
#pragma once

#include <string_view>
#include <vector>

namespace sluice::cpu {

/// Worst to best. kAvx2 needs AVX2, FMA and F16C; kAvxVnni AVX-VNNI besides; kAvx512 needs kAvx2's and F, BW,
/// VL and DQ; kAvx512Vnni AVX-512 VNNI besides; kAvx512Vbmi AVX-512 VBMI besides; kAmx AMX-TILE and AMX-BF16
/// besides, and the operating system's leave to use them.
enum class Isa { kScalar, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAvx512Vbmi, kAmx };

/// "scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512vbmi", "amx".
std::string_view isa_name(Isa isa);

/// The one whose float kernels `isa` uses: integer dot products change nothing for them.
constexpr Isa float_isa(Isa isa) {
  return isa == Isa::kAvxVnni ? Isa::kAvx2 : isa >= Isa::kAvx512 ? Isa::kAvx512 : isa;
}

/// Best first; scalar is always last. Asks the CPU and the operating system (XSAVE state), not the compiler.
std::vector<Isa> supported_isas();

/// The best supported one whose results do not depend on the batch, which leaves out AMX
/// (kernels_cpu/panel.h), or the one that the environment variable SLUICE_CPU_ISA names. Throws Error when
/// that names an unknown or unsupported one.
Isa chosen_isa();

}  // namespace sluice::cpu
