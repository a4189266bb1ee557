// The kernels of one instruction set: simd/*.h over simd/vector_avx2.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/vector_avx2.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/table.h"

namespace sluice::cpu {

constinit const Kernels kAvx2Kernels = make_kernels<Avx2>(Isa::kAvx2);

}  // namespace sluice::cpu
