// The panel kernels of one instruction set: simd/panel_*.h over simd/panel_lanes_avxvnni.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/panel_lanes_avxvnni.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/panel_table.h"

namespace sluice::cpu {

constinit const PanelKernels kAvxVnniPanelKernels = make_panel_kernels<PanelAvxVnni>(Isa::kAvxVnni);

}  // namespace sluice::cpu
