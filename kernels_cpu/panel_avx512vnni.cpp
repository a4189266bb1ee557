// The panel kernels of one instruction set: simd/panel_*.h over simd/panel_lanes_avx512vnni.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/panel_lanes_avx512vnni.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/panel_table.h"

namespace sluice::cpu {

constinit const PanelKernels kAvx512VnniPanelKernels =
    with_pairs<PanelAvx512Vnni>(make_panel_kernels<PanelAvx512Vnni>(Isa::kAvx512Vnni));

}  // namespace sluice::cpu
