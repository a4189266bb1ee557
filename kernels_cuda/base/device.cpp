#include "kernels_cuda/base/device.h"

#include <cuda_runtime_api.h>

#include <string>

#include "kernels_cuda/base/check.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

struct Count {
  int devices = 0;
  cudaError_t result = cudaSuccess;
};

Count count_devices() {
  Count count;
  count.result = cudaGetDeviceCount(&count.devices);
  if (count.result != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // a machine without a GPU is no error of the next call
    count.devices = 0;
  }
  return count;
}

int64_t attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

void check_device(int device) {
  const int devices = device_count();
  if (device < 0 || device >= devices) {
    throw Error("GPU " + std::to_string(device), "a number below " + std::to_string(devices),
                devices == 0 ? why_no_device() : "no such GPU");
  }
}

}  // namespace

int device_count() {
  return count_devices().devices;
}

std::string why_no_device() {
  const Count count = count_devices();
  if (count.devices > 0) return {};
  return count.result == cudaSuccess ? "no CUDA-capable device" : cudaGetErrorString(count.result);
}

DeviceProperties device_properties(int device) {
  check_device(device);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return {.name = properties.name,
          .capability = 10 * properties.major + properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .shared_bytes_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          .shared_bytes_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
          .l2_bytes = properties.l2CacheSize,
          .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
          .copy_engines = attribute(cudaDevAttrAsyncEngineCount, device)};
}

void use_device(int device) {
  check_device(device);
  check(cudaSetDevice(device), "cudaSetDevice");
}

DeviceMemory device_memory() {
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

}  // namespace sluice::cuda
