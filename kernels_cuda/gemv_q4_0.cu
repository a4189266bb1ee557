// GEMV of Q4_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ4_0{launch_gemv<FormatQ4_0>, 32 * FormatQ4_0::kChunks, FormatQ4_0::kBlocks};

}  // namespace sluice::cuda
