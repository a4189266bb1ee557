#include "kernels_cuda/base/host_registration.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <utility>

#include "kernels_cuda/base/check.h"

namespace sluice::cuda {
namespace {

/// CUDA takes a pointer to what may be written; nothing here writes.
void* address_of(std::span<const std::byte> memory) {
  return const_cast<std::byte*>(memory.data());
}

}  // namespace

HostRegistration::HostRegistration(std::span<const std::byte> memory) {
  const cudaError_t result = cudaHostRegister(address_of(memory), memory.size(), cudaHostRegisterPortable);
  if (result != cudaSuccess) static_cast<void>(cudaGetLastError());  // it is reported here and nowhere else
  check(result, fmt::format("page-locking {} bytes", memory.size()));
  memory_ = memory;
}

HostRegistration::~HostRegistration() {
  if (!memory_.empty()) static_cast<void>(cudaHostUnregister(address_of(memory_)));
}

HostRegistration::HostRegistration(HostRegistration&& other) noexcept
    : memory_(std::exchange(other.memory_, {})) {}

HostRegistration& HostRegistration::operator=(HostRegistration&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

}  // namespace sluice::cuda
