#include "kernels_cuda/base/buffer.h"

#include <fmt/format.h>

#include "kernels_cuda/base/check.h"

namespace sluice::cuda {

Memory::Memory(MemoryKind kind, int64_t bytes) : kind_(kind), bytes_(bytes) {
  assert(bytes >= 0);
  if (bytes == 0) return;
  const auto size = static_cast<size_t>(bytes);
  if (kind == MemoryKind::kDevice) {
    check(cudaMalloc(&data_, size), fmt::format("cudaMalloc of {} bytes", bytes));
  } else {
    check(cudaHostAlloc(&data_, size, cudaHostAllocPortable | cudaHostAllocMapped),
          fmt::format("cudaHostAlloc of {} bytes", bytes));
  }
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  static_cast<void>(kind_ == MemoryKind::kDevice ? cudaFree(data_) : cudaFreeHost(data_));
}

void copy_to_gpu(void* to, std::span<const std::byte> from, std::string_view what) {
  check(cudaMemcpy(to, from.data(), from.size_bytes(), cudaMemcpyHostToDevice), what);
  check(cudaStreamSynchronize(cudaStreamLegacy), what);
}

}  // namespace sluice::cuda
