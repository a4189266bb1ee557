// Memory and copies. Copies are as late, and sources in pageable memory are read as early, as CUDA allows
// ("API synchronization behavior" of the run-time library's manual).
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/cuda_emulator/failure.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

using namespace sluice::emulator;  // this file is the emulator's face

namespace {

/// A cudaMemcpy from pageable memory returns before the copy is made when there is so little of it.
constexpr size_t kStagedBytes = size_t{64} << 10;

/// `rows` rows of `width` bytes each.
struct Copy {
  std::byte* to;
  size_t to_pitch;
  const std::byte* from;
  size_t from_pitch;
  size_t width;
  size_t rows;

  [[nodiscard]] bool is_nothing() const { return width == 0 || rows == 0; }
  [[nodiscard]] size_t to_bytes() const { return (rows - 1) * to_pitch + width; }
  [[nodiscard]] size_t from_bytes() const { return (rows - 1) * from_pitch + width; }
  void make() const {
    for (size_t r = 0; r < rows; ++r) std::memcpy(to + r * to_pitch, from + r * from_pitch, width);
  }
};

Copy copy_of(void* to, const void* from, size_t bytes) {
  return {static_cast<std::byte*>(to), bytes, static_cast<const std::byte*>(from), bytes, bytes, 1};
}

bool is_on_device(const void* data, size_t bytes) {
  return place_of(data, bytes) == Place::kDevice;
}

cudaError_t check_copy(const Copy& c, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice) {
    return cudaErrorInvalidMemcpyDirection;
  }
  if (c.is_nothing()) return cudaSuccess;
  if (c.width > c.to_pitch || c.width > c.from_pitch) return cudaErrorInvalidPitchValue;
  const bool to =
      kind == cudaMemcpyDeviceToHost ? !touches_device(c.to, c.to_bytes()) : is_on_device(c.to, c.to_bytes());
  const bool from = kind == cudaMemcpyHostToDevice ? !touches_device(c.from, c.from_bytes())
                                                   : is_on_device(c.from, c.from_bytes());
  return c.to != nullptr && c.from != nullptr && to && from ? cudaSuccess : cudaErrorInvalidValue;
}

/// The copy with its source as it is now.
Item staged(const Copy& c) {
  std::vector<std::byte> bytes(c.width * c.rows);
  Copy there{bytes.data(), c.width, c.from, c.from_pitch, c.width, c.rows};
  there.make();
  return {.work = [c, bytes = std::move(
                          bytes)] { Copy{c.to, c.to_pitch, bytes.data(), c.width, c.width, c.rows}.make(); },
          .event = nullptr};
}

Item later(const Copy& c) {
  return {.work = [c] { c.make(); }, .event = nullptr};
}

cudaError_t copy_in_stream(const Copy& c, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t wrong = check_copy(c, kind); wrong != cudaSuccess) return wrong;
  if (c.is_nothing()) return failure();
  const bool in_graph = is_captured(stream);
  if (!in_graph && kind == cudaMemcpyHostToDevice && place_of(c.from, c.from_bytes()) == Place::kPageable) {
    return put(stream, staged(c));
  }
  if (!in_graph && kind == cudaMemcpyDeviceToHost && place_of(c.to, c.to_bytes()) == Place::kPageable) {
    return put_and_wait(stream, later(c));
  }
  return put(stream, later(c));
}

cudaError_t copy_now(const Copy& c, cudaMemcpyKind kind) {
  if (const cudaError_t wrong = check_copy(c, kind); wrong != cudaSuccess) return wrong;
  if (c.is_nothing()) return failure();
  if (kind == cudaMemcpyDeviceToDevice) return put(nullptr, later(c));
  if (kind == cudaMemcpyHostToDevice && c.width * c.rows <= kStagedBytes &&
      place_of(c.from, c.from_bytes()) == Place::kPageable) {
    return put(nullptr, staged(c));
  }
  return put_and_wait(nullptr, later(c));
}

cudaError_t fill(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return failure();
  if (place_of(data, bytes) == Place::kPageable) return cudaErrorInvalidValue;
  return put(stream, {.work = [=] { std::memset(data, value, bytes); }, .event = nullptr});
}

cudaError_t allocate_for(Place place, void** data, size_t bytes) {
  if (failure() != cudaSuccess) return failure();
  *data = allocate(place, bytes);
  return *data == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
}

/// After everything that may still use it, as CUDA waits.
cudaError_t release_of(Place place, void* data) {
  if (data == nullptr) return failure();
  if (const cudaError_t failed = cudaDeviceSynchronize(); failed != cudaSuccess) return failed;
  return release(place, data) ? cudaSuccess : cudaErrorInvalidValue;
}

/// Whether there are pages, in any state.
bool is_mapped(void* data, size_t bytes) {
  const auto page = reinterpret_cast<uintptr_t>(data) & ~uintptr_t{4095};
  const size_t length = bytes + (reinterpret_cast<uintptr_t>(data) - page);
  return msync(reinterpret_cast<void*>(page), length, MS_ASYNC) == 0;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  return told(allocate_for(Place::kDevice, data, bytes));
}

cudaError_t cudaFree(void* data) {
  return told(release_of(Place::kDevice, data));
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned /*flags*/) {
  return told(allocate_for(Place::kPinned, data, bytes));
}

cudaError_t cudaFreeHost(void* data) {
  return told(release_of(Place::kPinned, data));
}

cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned /*flags*/) {
  if (data == nullptr || bytes == 0 || !is_mapped(data, bytes)) return told(cudaErrorInvalidValue);
  return told(register_pinned(data, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void* data) {
  return told(unregister_pinned(data) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = static_cast<size_t>(free_device_bytes());
  *total = static_cast<size_t>(kDeviceBytes);
  return told(cudaSuccess);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return told(copy_now(copy_of(to, from, bytes), kind));
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return told(copy_in_stream(copy_of(to, from, bytes), kind, stream));
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                         size_t rows, cudaMemcpyKind kind) {
  return told(copy_now(
      {static_cast<std::byte*>(to), to_pitch, static_cast<const std::byte*>(from), from_pitch, width, rows},
      kind));
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  return told(copy_in_stream(
      {static_cast<std::byte*>(to), to_pitch, static_cast<const std::byte*>(from), from_pitch, width, rows},
      kind, stream));
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return told(fill(data, value, bytes, nullptr));
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return told(fill(data, value, bytes, stream));
}

}  // extern "C"
