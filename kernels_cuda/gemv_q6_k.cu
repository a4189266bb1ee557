// GEMV of Q6_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ6_K{launch_gemv<FormatQ6_K>, 32 * FormatQ6_K::kChunks, FormatQ6_K::kBlocks};

}  // namespace sluice::cuda
