// The panel kernels of one instruction set: simd/panel_*.h over simd/panel_lanes_avx512vbmi.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/panel_lanes_avx512vbmi.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/panel_table.h"

namespace sluice::cpu {

constinit const PanelKernels kAvx512VbmiPanelKernels =
    with_pairs<PanelAvx512Vbmi>(make_panel_kernels<PanelAvx512Vbmi>(Isa::kAvx512Vbmi));

}  // namespace sluice::cpu
