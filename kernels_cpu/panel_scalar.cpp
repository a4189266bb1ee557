// The panel kernels over one row at a time: the oracle of the instruction sets.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/panel_lanes_scalar.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/panel_table.h"

namespace sluice::cpu {

constinit const PanelKernels kScalarPanelKernels = make_panel_kernels<PanelScalar>(Isa::kScalar);

}  // namespace sluice::cpu
