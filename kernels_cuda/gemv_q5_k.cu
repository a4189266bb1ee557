// GEMV of Q5_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ5_K{launch_gemv<FormatQ5_K>, 32 * FormatQ5_K::kChunks, FormatQ5_K::kBlocks};

}  // namespace sluice::cuda
