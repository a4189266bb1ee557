// kernels_cuda/base/launch.cuh for the emulator: the same names, and a launch hands the grid to the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/launch_names.h"
#include "quant/base/error.h"
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/launch_limits.h"
#include "tests/cuda_emulator/stream.h"

namespace sluice::cuda {

template <typename Int>
constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

/// Lets `kernel` have kBytes of dynamic shared memory. Its static shared memory is not known here.
template <int64_t kBytes, typename Kernel>
void allow_shared(Kernel* kernel, std::string_view /*name*/) {
  static_assert(kBytes <= kMostSharedBytes);
  emulator::allow_shared(reinterpret_cast<const void*>(kernel), kBytes);
}

inline int64_t multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int64_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
};

/// Throws Error with `name` for what a GPU would refuse.
template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), std::string_view name, const LaunchShape& shape,
                   const Arguments&... arguments) {
  note_launch(name);
  emulator::Grid grid{
      .grid = shape.grid, .block = shape.block, .shared_bytes = shape.shared_bytes, .name = name};
  emulator::check_limits(reinterpret_cast<const void*>(kernel), grid);
  const std::tuple<std::remove_cv_t<Parameters>...> parameters(static_cast<Parameters>(arguments)...);
  emulator::enqueue(shape.stream, [kernel, grid, parameters, name = std::string(name)]() mutable {
    grid.name = name;
    emulator::run_grid(grid, [&] { std::apply(kernel, parameters); });
  });
  check(cudaGetLastError(), name);
}

/// On a GPU the kernel may begin while the one before it ends; here it does not.
template <typename... Parameters, typename... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), std::string_view name, const LaunchShape& shape,
                        const Arguments&... arguments) {
  launch_kernel(kernel, name, shape, arguments...);
}

}  // namespace sluice::cuda
