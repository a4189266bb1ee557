// GEMV of MXFP4 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvMXFP4 = kGemvOf<FormatMXFP4>;

}  // namespace sluice::cuda
