// GEMV of Q5_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ5_0{launch_gemv<FormatQ5_0>, 32 * FormatQ5_0::kChunks, FormatQ5_0::kBlocks};

}  // namespace sluice::cuda
