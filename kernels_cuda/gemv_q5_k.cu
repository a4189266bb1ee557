// GEMV of Q5_K panels.
#include "kernels_cuda/device/gemv_kernel.cuh"

namespace sluice::cuda {

const GemvFormat kGemvQ5_K = kGemvOf<FormatQ5_K>;

}  // namespace sluice::cuda
