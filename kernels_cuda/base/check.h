// Results of CUDA calls as errors of the project.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace sluice::cuda {

/// Throws Error when `result` is not cudaSuccess. `what` names the call or the kernel that was launched; the
/// message carries CUDA's own words. An error that an earlier kernel left behind is reported by the next
/// check, which says so and how to learn the kernel's name.
void check(cudaError_t result, std::string_view what);

/// To be called right after a kernel launch: check(cudaGetLastError(), kernel).
void check_launch(std::string_view kernel);

}  // namespace sluice::cuda
