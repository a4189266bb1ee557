// The panel kernels of one instruction set: simd/panel_*.h over simd/panel_lanes_avx2.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/panel_lanes_avx2.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/panel_table.h"

namespace sluice::cpu {

constinit const PanelKernels kAvx2PanelKernels = make_panel_kernels<PanelAvx2>(Isa::kAvx2);

}  // namespace sluice::cpu
