// Makes g++ read CUDA device code as C++ for the emulator: CUDA's keywords, and the intrinsics that
// kernels_cuda uses. Included before all else of a .cu file (-include).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "tests/cuda_emulator/device_variables.h"

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): CUDA's names
// A block runs alone, so its static shared memory may be one for all blocks. It is not filled before a block
// begins.
#undef __shared__
#define __shared__ static
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __host__
#define __host__
#undef __constant__
#define __constant__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

// nvcc's overloads of run-time functions that take kernels.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)

#include "tests/cuda_emulator/memory_intrinsics.h"
#include "tests/cuda_emulator/number_intrinsics.h"
#include "tests/cuda_emulator/warp_intrinsics.h"
