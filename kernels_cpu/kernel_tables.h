// The tables that the ISA files export; dispatch.cpp alone reads them.
#pragma once

#include "kernels_cpu/kernels.h"

namespace sluice::cpu {

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

}  // namespace sluice::cpu
