// From an instruction set to its tables.
#include <algorithm>
#include <cassert>

#include "kernels_cpu/kernel_tables.h"

namespace sluice::cpu {
namespace {

// Another one would end in an illegal instruction.
[[maybe_unused]] bool is_supported(Isa isa) {
  return std::ranges::count(supported_isas(), isa) == 1;
}

}  // namespace

const Kernels& kernels_for(Isa isa) {
  assert(is_supported(isa));
  switch (float_isa(isa)) {
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAvx2:
      return kAvx2Kernels;
    default:
      return kScalarKernels;
  }
}

const PanelKernels& panel_kernels_for(Isa isa) {
  assert(is_supported(isa));
  switch (isa) {
    case Isa::kAmx: {
      static const PanelKernels amx = with_amx(kAvx512VbmiPanelKernels);
      return amx;
    }
    case Isa::kAvx512Vbmi:
      return kAvx512VbmiPanelKernels;
    case Isa::kAvx512Vnni:
      return kAvx512VnniPanelKernels;
    case Isa::kAvx512:
      return kAvx512PanelKernels;
    case Isa::kAvxVnni:
      return kAvxVnniPanelKernels;
    case Isa::kAvx2:
      return kAvx2PanelKernels;
    case Isa::kScalar:
      break;
  }
  return kScalarPanelKernels;
}

}  // namespace sluice::cpu
