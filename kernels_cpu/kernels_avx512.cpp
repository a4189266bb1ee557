// The kernels of one instruction set: simd/*.h over simd/vector_avx512.h.
#include "kernels_cpu/kernel_tables.h"
#include "kernels_cpu/simd/vector_avx512.h"

// After the vocabulary that it is written in.
#include "kernels_cpu/simd/table.h"

namespace sluice::cpu {

constinit const Kernels kAvx512Kernels = make_kernels<Avx512>(Isa::kAvx512);

}  // namespace sluice::cpu
