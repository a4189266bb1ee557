// What .cu files share around a launch: grids, and dynamic shared memory within the limit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/launch_names.h"
#include "quant/base/error.h"

namespace sluice::cuda {

template <typename Int>
constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

/// Lets `kernel` have kBytes of dynamic shared memory, and checks static and dynamic together against
/// kMostSharedBytes. Cheap enough to be called before every launch outside a captured graph; call it once per
/// instantiation before capturing.
template <int64_t kBytes, typename Kernel>
void allow_shared(Kernel* kernel, std::string_view name) {
  static_assert(kBytes <= kMostSharedBytes);
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), name);
  const int64_t bytes = kBytes + static_cast<int64_t>(attributes.sharedSizeBytes);
  if (bytes > kMostSharedBytes) {
    throw Error(name, "at most " + std::to_string(kMostSharedBytes) + " bytes of shared memory",
                std::to_string(bytes));
  }
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes)),
        name);
}

/// Of this thread's GPU.
inline int64_t multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

/// Where and how large a kernel is launched.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
};

/// Launches a kernel behind all that is in the stream. Throws Error with `name`.
template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), std::string_view name, const LaunchShape& shape,
                   const Arguments&... arguments) {
  note_launch(name);
  kernel<<<shape.grid, shape.block, static_cast<size_t>(shape.shared_bytes), shape.stream>>>(arguments...);
  check_launch(name);
}

/// Launches a kernel that calls wait_for_last (device/overlap.cuh) before it touches what others write: on
/// sm_90 and newer it may begin while the one before it in the stream ends. Throws Error with `name`.
template <typename... Parameters, typename... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), std::string_view name, const LaunchShape& shape,
                        const Arguments&... arguments) {
  note_launch(name);
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = shape.stream;
  config.attrs = &overlap;
  config.numAttrs = major >= 9 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace sluice::cuda
