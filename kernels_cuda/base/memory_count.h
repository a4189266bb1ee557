// How much GPU memory the process has taken through Memory (buffer.h), and a limit to it, so that a card that
// is full can be met at every allocation, on any card. What the driver takes on its own does not count.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace sluice::cuda {

/// For several threads at once.
class MemoryCount {
 public:
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  /// False when `bytes` more would be over the limit; then nothing is taken.
  [[nodiscard]] bool take(int64_t bytes);
  void give_back(int64_t bytes) { taken_.fetch_sub(bytes); }

  /// Bytes taken now.
  [[nodiscard]] int64_t taken() const { return taken_.load(); }
  /// For what is taken from now on: taken() may become so much, and no more.
  void set_limit(int64_t bytes) { limit_.store(bytes); }

 private:
  std::atomic<int64_t> taken_ = 0;
  std::atomic<int64_t> limit_ = kNoLimit;
};

/// Of all GPUs of the process: their memory is the process's, as the driver's own count of it is.
MemoryCount& device_memory_count();

}  // namespace sluice::cuda
