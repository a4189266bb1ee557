// GEMV of Q4_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ4_K = kGemvOf<FormatQ4_K>;

}  // namespace sluice::cuda
