#include "kernels_cuda/base/check.h"

#include <string>

#include "quant/base/error.h"

namespace sluice::cuda {

namespace {

/// Errors of a running kernel, which whatever call comes next reports.
bool comes_from_a_kernel(cudaError_t result) {
  switch (result) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
      return true;
    default:
      return false;
  }
}

}  // namespace

void check(cudaError_t result, std::string_view what) {
  if (result == cudaSuccess) return;
  std::string found = std::string(cudaGetErrorName(result)) + " (" + cudaGetErrorString(result) + ")";
  if (comes_from_a_kernel(result)) {
    found += "; it may be an earlier kernel's, which CUDA_LAUNCH_BLOCKING=1 in the environment names";
  }
  throw Error(what, "success", found);
}

void check_launch(std::string_view kernel) {
  check(cudaGetLastError(), kernel);
}

}  // namespace sluice::cuda
