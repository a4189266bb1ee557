// GEMV of MXFP4 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvMXFP4{launch_gemv<FormatMXFP4>, 32 * FormatMXFP4::kChunks, FormatMXFP4::kBlocks};

}  // namespace sluice::cuda
