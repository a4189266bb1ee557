// Memory of a GPU that is planned before it is taken: the same calls first count, then hand out.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "kernels_cuda/base/buffer.h"

namespace sluice {

class CudaArena {
 public:
  /// Counts only: every take() is null.
  CudaArena() = default;
  /// Throws Error when the GPU has no such memory.
  explicit CudaArena(int64_t bytes) : memory_(cuda::MemoryKind::kDevice, bytes) {}

  /// The next `count` values, aligned to 256 bytes. What was allocated must suffice (asserted).
  template <typename T>
  T* take(int64_t count) {
    const int64_t at = taken_;
    taken_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    if (memory_.data() == nullptr) {
      return nullptr;
    }
    assert(taken_ <= memory_.bytes());
    return reinterpret_cast<T*>(static_cast<std::byte*>(memory_.data()) + at);
  }

  /// Bytes of all so far.
  [[nodiscard]] int64_t taken() const { return taken_; }

 private:
  static constexpr int64_t kAlignment = 256;

  cuda::Memory memory_;
  int64_t taken_ = 0;
};

}  // namespace sluice
