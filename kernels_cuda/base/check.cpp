#include "kernels_cuda/base/check.h"

#include <string>

#include "quant/base/error.h"

namespace sluice::cuda {

void check(cudaError_t result, std::string_view what) {
  if (result == cudaSuccess) return;
  throw Error(what, "success",
              std::string(cudaGetErrorName(result)) + " (" + cudaGetErrorString(result) + ")");
}

void check_launch(std::string_view kernel) {
  check(cudaGetLastError(), kernel);
}

}  // namespace sluice::cuda
