// GEMV of Q4_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ4_0 = kGemvOf<FormatQ4_0>;

}  // namespace sluice::cuda
