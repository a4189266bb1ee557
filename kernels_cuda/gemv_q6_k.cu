// GEMV of Q6_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ6_K = kGemvOf<FormatQ6_K>;

}  // namespace sluice::cuda
