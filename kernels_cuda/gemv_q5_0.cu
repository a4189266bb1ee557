// GEMV of Q5_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ5_0 = kGemvOf<FormatQ5_0>;

}  // namespace sluice::cuda
