// Memory that owns itself: on the GPU, and page-locked on the host, where the GPU reaches it too.
#pragma once

#include <cuda_runtime_api.h>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels_cuda/base/check.h"

namespace sluice::cuda {

enum class MemoryKind { kDevice, kPinned };

/// Bytes of this thread's GPU, or page-locked bytes of the host that every GPU can address (kPinned). Aligned
/// to 256 bytes, not initialised. Move-only.
class Memory {
 public:
  Memory() = default;
  /// Throws Error, e.g. when there is not enough memory. No bytes are no allocation.
  Memory(MemoryKind kind, int64_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept
      : kind_(other.kind_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  MemoryKind kind_ = MemoryKind::kDevice;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// `count` values on the GPU, for kernels and copies; the host must not dereference data().
template <typename T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t count)
      : memory_(MemoryKind::kDevice, count * static_cast<int64_t>(sizeof(T))), count_(count) {}
  /// Holds a copy of `values`; returns when that is made.
  explicit DeviceBuffer(std::span<const T> values) : DeviceBuffer(static_cast<int64_t>(values.size())) {
    check(cudaMemcpy(data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    // From pageable memory that returns before the last bytes have arrived.
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(std::span<const T>(values)) {}

  [[nodiscard]] T* data() const { return static_cast<T*>(memory_.data()); }
  [[nodiscard]] int64_t size() const { return count_; }
  [[nodiscard]] int64_t bytes() const { return memory_.bytes(); }

  /// Every byte becomes `value`, in the stream.
  void fill_bytes(int value, cudaStream_t stream) const {
    check(cudaMemsetAsync(data(), value, static_cast<size_t>(bytes()), stream), "cudaMemsetAsync");
  }
  /// From the host, in the stream; `values` must stay until that is done.
  void copy_from(std::span<const T> values, cudaStream_t stream) const {
    assert(static_cast<int64_t>(values.size()) <= count_);
    check(cudaMemcpyAsync(data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync");
  }
  /// The values after everything in the stream so far; waits.
  [[nodiscard]] std::vector<T> to_host(cudaStream_t stream) const {
    std::vector<T> values(static_cast<size_t>(count_));
    check(
        cudaMemcpyAsync(values.data(), data(), static_cast<size_t>(bytes()), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return values;
  }

 private:
  Memory memory_;
  int64_t count_ = 0;
};

/// `count` values in page-locked host memory; kernels may use data() as it is (unified addressing).
template <typename T>
class PinnedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t count)
      : memory_(MemoryKind::kPinned, count * static_cast<int64_t>(sizeof(T))), count_(count) {}

  [[nodiscard]] T* data() const { return static_cast<T*>(memory_.data()); }
  [[nodiscard]] int64_t size() const { return count_; }
  [[nodiscard]] std::span<T> values() const { return {data(), static_cast<size_t>(count_)}; }

 private:
  Memory memory_;
  int64_t count_ = 0;
};

}  // namespace sluice::cuda
