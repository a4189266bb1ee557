// Memory that a direct read may write to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

namespace sluice::offload {

/// Offsets, lengths and addresses of direct reads are multiples of this: the largest block of any disk so
/// far.
inline constexpr int64_t kReadBlock = 4096;

/// Move-only owner of block-aligned memory that grows when more is wanted.
class ReadBuffer {
 public:
  /// `bytes` of it; what it held before is lost when it grows.
  [[nodiscard]] std::span<std::byte> first(int64_t bytes) {
    if (bytes > bytes_) {
      const int64_t blocks = (bytes + kReadBlock - 1) / kReadBlock;
      memory_.reset(
          static_cast<std::byte*>(std::aligned_alloc(kReadBlock, static_cast<size_t>(blocks * kReadBlock))));
      bytes_ = memory_ == nullptr ? 0 : blocks * kReadBlock;
      if (memory_ == nullptr) {
        throw std::bad_alloc();
      }
    }
    return {memory_.get(), static_cast<size_t>(bytes)};
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace sluice::offload
