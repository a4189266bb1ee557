// A barrier for the workers of one team.
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>

#include "offload/waiting.h"

namespace sluice::offload {

/// Sense-reversing, the sense being the number of the phase: it can be used again at once, by the same number
/// of threads each time.
class Barrier {
 public:
  /// `threads` >= 1 take part.
  explicit Barrier(int64_t threads) : threads_(threads), spin_(spin_time_for(threads)) {
    assert(threads >= 1);
  }

  /// Returns when all threads have called it; what each wrote before is then visible to all.
  void arrive_and_wait() {
    const uint32_t phase = phase_.load(std::memory_order_relaxed);  // cannot change before we arrive
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1);
      place_.wake();
    } else {
      place_.wait([&] { return phase_.load() != phase; }, spin_);
    }
  }

 private:
  const int64_t threads_;
  const SpinTime spin_;
  // Apart: every arrival takes the counter's cache line away from the others, and the phase is what they
  // watch.
  alignas(64) std::atomic<int64_t> arrived_ = 0;
  alignas(64) std::atomic<uint32_t> phase_ = 0;
  WaitingPlace place_;
};

}  // namespace sluice::offload
