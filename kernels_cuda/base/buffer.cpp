#include "kernels_cuda/base/buffer.h"

#include <fmt/format.h>

#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/memory_count.h"
#include "kernels_cuda/base/out_of_memory.h"

namespace sluice::cuda {

namespace {

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

cudaError_t allocate(MemoryKind kind, void** data, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (kind == MemoryKind::kPinned) {
    return cudaHostAlloc(data, size, cudaHostAllocPortable | cudaHostAllocMapped);
  }
  if (!device_memory_count().take(bytes)) {
    return cudaErrorMemoryAllocation;
  }
  const cudaError_t result = cudaMalloc(data, size);
  if (result != cudaSuccess) {
    device_memory_count().give_back(bytes);
  }
  return result;
}

[[noreturn]] void no_room(MemoryKind kind, int64_t bytes) {
  if (kind == MemoryKind::kPinned) {
    throw OutOfMemory("page-locked memory", gigabytes(bytes), "none that the system would lock");
  }
  const DeviceMemory memory = device_memory();
  throw OutOfMemory("GPU memory", fmt::format("{} ({} bytes)", gigabytes(bytes), bytes),
                    fmt::format("{} of {} free, {} taken by this program", gigabytes(memory.free_bytes),
                                gigabytes(memory.total_bytes), gigabytes(device_memory_count().taken())));
}

}  // namespace

Memory::Memory(MemoryKind kind, int64_t bytes) : kind_(kind), bytes_(bytes) {
  assert(bytes >= 0);
  if (bytes == 0) return;
  const cudaError_t result = allocate(kind, &data_, bytes);
  if (result == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // it is reported here, and not by the next launch
  if (result == cudaErrorMemoryAllocation) no_room(kind, bytes);
  check(result, fmt::format("allocating {} bytes", bytes));
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (kind_ == MemoryKind::kPinned) {
    static_cast<void>(cudaFreeHost(data_));
    return;
  }
  static_cast<void>(cudaFree(data_));
  device_memory_count().give_back(bytes_);
}

void copy_to_gpu(void* to, std::span<const std::byte> from, std::string_view what) {
  check(cudaMemcpy(to, from.data(), from.size_bytes(), cudaMemcpyHostToDevice), what);
  check(cudaStreamSynchronize(cudaStreamLegacy), what);
}

}  // namespace sluice::cuda
