// From an instruction set to its table.
#include <algorithm>
#include <cassert>

#include "kernels_cpu/kernel_tables.h"

namespace sluice::cpu {

const Kernels& kernels_for(Isa isa) {
  assert(std::ranges::count(supported_isas(), isa) == 1);  // another one would end in an illegal instruction
  switch (isa) {
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kScalar:
      break;
  }
  return kScalarKernels;
}

}  // namespace sluice::cpu
