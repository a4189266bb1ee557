// What the ISA files export; dispatch.cpp alone reads it, and AMX the table that it rests on.
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/panel.h"

namespace sluice::cpu {

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

extern const PanelKernels kScalarPanelKernels;
extern const PanelKernels kAvx2PanelKernels;
extern const PanelKernels kAvxVnniPanelKernels;
extern const PanelKernels kAvx512PanelKernels;
extern const PanelKernels kAvx512VnniPanelKernels;
extern const PanelKernels kAvx512VbmiPanelKernels;
/// `best` with AMX tiles for batches.
PanelKernels with_amx(const PanelKernels& best);

}  // namespace sluice::cpu
