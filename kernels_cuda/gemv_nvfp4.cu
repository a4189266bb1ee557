// GEMV of NVFP4 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvNVFP4 = kGemvOf<FormatNVFP4>;

}  // namespace sluice::cuda
