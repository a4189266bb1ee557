// GEMV of Q4_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ4_K{launch_gemv<FormatQ4_K>, 32 * FormatQ4_K::kChunks, FormatQ4_K::kBlocks};

}  // namespace sluice::cuda
