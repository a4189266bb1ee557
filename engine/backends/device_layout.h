// Memory of a GPU as a row of pieces: the same calls first count, then hand out. Without CUDA, so that bytes
// can be planned where there is none.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

namespace sluice {

class DeviceLayout {
 public:
  /// Counts only: every take() is null.
  DeviceLayout() = default;
  /// Hands out pieces of `bytes` at `memory`.
  DeviceLayout(void* memory, int64_t bytes) : memory_(static_cast<std::byte*>(memory)), bytes_(bytes) {}

  /// The next `count` values, aligned to 256 bytes. What there is must suffice (asserted).
  template <typename T>
  T* take(int64_t count) {
    const int64_t at = taken_;
    taken_ += aligned(count * static_cast<int64_t>(sizeof(T)));
    if (memory_ == nullptr) {
      return nullptr;
    }
    assert(taken_ <= bytes_);
    return reinterpret_cast<T*>(memory_ + at);
  }

  /// Bytes of all so far.
  [[nodiscard]] int64_t taken() const { return taken_; }

  /// What a piece of so many bytes takes.
  static constexpr int64_t aligned(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  static constexpr int64_t kAlignment = 256;

  std::byte* memory_ = nullptr;
  [[maybe_unused]] int64_t bytes_ = 0;  // asserted alone
  int64_t taken_ = 0;
};

}  // namespace sluice
