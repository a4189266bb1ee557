// GEMV of Q8_0 panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ8_0{launch_gemv<FormatQ8_0>, 32 * FormatQ8_0::kChunks, FormatQ8_0::kBlocks};

}  // namespace sluice::cuda
