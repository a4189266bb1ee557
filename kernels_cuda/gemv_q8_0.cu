// GEMV of Q8_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ8_0 = kGemvOf<FormatQ8_0>;

}  // namespace sluice::cuda
