// The one emulated GPU, the names of errors and what is asked of kernels. Limits are the least of those that
// kernels must do with on any GPU.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string_view>

#include "tests/cuda_emulator/failure.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

using sluice::emulator::Streams;
using sluice::emulator::told;

namespace {

constexpr int kMultiprocessors = 4;
constexpr int kMajor = 8;
constexpr int kMinor = 0;
constexpr int kL2Bytes = 4 << 20;
// Of sm_86, sm_89 and sm_120 (CUDA C++ Programming Guide, table of compute capabilities).
constexpr int kSharedBytesPerBlock = 48 << 10;
constexpr int kMostSharedBytesPerBlock = 99 << 10;
constexpr int kSharedBytesPerMultiprocessor = 100 << 10;
constexpr int kMostThreads = 1024;
constexpr int kCopyEngines = 2;

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* words;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

const ErrorText* text_of(cudaError_t error) {
  const auto* const found = std::ranges::find(kErrors, error, &ErrorText::error);
  return found == std::end(kErrors) ? nullptr : found;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorText* const text = text_of(error);
  return text == nullptr ? "an error that the emulated GPU does not know" : text->name;
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorText* const text = text_of(error);
  return text == nullptr ? "an error that the emulated GPU does not know" : text->words;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return told(cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return told(cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  return told(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return told(cudaErrorInvalidDevice);
  *properties = {};
  constexpr std::string_view kName = "emulated GPU";
  std::ranges::copy(kName, properties->name);
  properties->major = kMajor;
  properties->minor = kMinor;
  properties->multiProcessorCount = kMultiprocessors;
  properties->l2CacheSize = kL2Bytes;
  properties->totalGlobalMem = static_cast<size_t>(sluice::emulator::kDeviceBytes);
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMostThreads;
  properties->sharedMemPerBlock = kSharedBytesPerBlock;
  properties->sharedMemPerBlockOptin = kMostSharedBytesPerBlock;
  properties->sharedMemPerMultiprocessor = kSharedBytesPerMultiprocessor;
  properties->asyncEngineCount = kCopyEngines;
  return told(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return told(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = kMajor;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = kMinor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kMostSharedBytesPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = kSharedBytesPerMultiprocessor;
      break;
    case cudaDevAttrAsyncEngineCount:
      *value = kCopyEngines;
      break;
    default:
      return told(cudaErrorNotSupported);
  }
  return told(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
  Streams& streams = Streams::all();
  std::unique_lock lock(streams.mutex());
  return told(streams.wait_for_all(lock));
}

// What g++ makes of a kernel has no registers to speak of, and its static shared memory is not known here.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (kernel == nullptr) return told(cudaErrorInvalidValue);
  *attributes = {};
  attributes->maxThreadsPerBlock = kMostThreads;
  attributes->maxDynamicSharedSizeBytes = kSharedBytesPerBlock;
  return told(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const bool fits =
      attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= kMostSharedBytesPerBlock;
  return told(kernel != nullptr && fits ? cudaSuccess : cudaErrorInvalidValue);
}

}  // extern "C"
