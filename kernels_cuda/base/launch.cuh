// What .cu files share around a launch: grids, and dynamic shared memory within the limit.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
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

}  // namespace sluice::cuda
