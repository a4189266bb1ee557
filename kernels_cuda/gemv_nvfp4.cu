// GEMV of NVFP4 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvNVFP4{launch_gemv<FormatNVFP4>, 32 * FormatNVFP4::kChunks, FormatNVFP4::kBlocks};

}  // namespace sluice::cuda
