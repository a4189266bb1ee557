// The routed experts' memory, page-locked in the background: a GPU copies from it at full speed, without a
// second copy of it anywhere. Until a piece is locked, and where the system refuses, callers know and go
// another way.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/backends/gpu.h"
#include "kernels_cuda/base/host_registration.h"

namespace sluice {

class CudaPinnedStore final : public GpuHostMemory {
 public:
  /// Pieces that are locked one after the other. Chosen: a second or less each, so that a stop is quick.
  static constexpr int64_t kPieceBytes = int64_t{1} << 30;

  /// Begins to lock `memory`, which must outlive this, for GPU `device`. Returns at once.
  CudaPinnedStore(const std::vector<std::span<const std::byte>>& memory, int device,
                  int64_t piece_bytes = kPieceBytes);
  /// Ends after the piece that is under way, and lets all go.
  ~CudaPinnedStore() override;

  /// The longest first part of a span that one copy may take, and whether it is locked.
  struct Part {
    std::span<const std::byte> bytes;
    bool locked = false;
  };
  [[nodiscard]] Part first_part(std::span<const std::byte> span) const;
  /// use(part, offset) for all parts of a span, each `offset` bytes behind its beginning: CUDA refuses a copy
  /// that reaches over the end of memory that was locked at once.
  template <typename Use>
  void for_parts(std::span<const std::byte> span, const Use& use) const {
    for (size_t offset = 0; offset < span.size();) {
      const Part part = first_part(span.subspan(offset));
      use(part, offset);
      offset += part.bytes.size();
    }
  }

  [[nodiscard]] PageLock page_lock() const override;
  /// Whether there is memory and all of it is locked.
  [[nodiscard]] bool is_locked() const {
    return finished_ && !pieces_.empty() && page_lock().problem.empty();
  }
  /// Until all pieces are locked, or there is a problem.
  void wait() const { finished_.wait(false); }

 private:
  void lock_all(const std::stop_token& stop, int device);

  std::vector<std::span<const std::byte>> pieces_;  // ascending by address
  std::vector<std::atomic<bool>> locked_;           // [pieces]
  std::vector<cuda::HostRegistration> registrations_;
  std::atomic<int64_t> locked_bytes_ = 0;
  std::atomic<bool> finished_ = false;
  mutable std::mutex mutex_;
  std::string problem_;  // under mutex_
  std::jthread thread_;
};

}  // namespace sluice
