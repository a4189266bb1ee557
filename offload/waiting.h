// Waiting for another thread: spin for a while, because it is quick, then sleep, because it is cheap.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace sluice::offload {

/// How long a thread spins before it sleeps.
using SpinTime = std::chrono::nanoseconds;

/// When every thread has a processor: longer than the gaps between the parallel parts of a token (the
/// sampler's sort is the longest, about a millisecond), so that a team sleeps only when nothing is computed.
inline constexpr SpinTime kPatientSpin = std::chrono::milliseconds(4);
/// When threads share processors: who spins keeps the one that he waits for from running.
inline constexpr SpinTime kBriefSpin = std::chrono::microseconds(2);

/// The spin time for a team of `threads`, by the number of processors that the process may use.
SpinTime spin_time_for(int64_t threads);

/// A place to wait for a condition over atomics. Two rules make sure that no wake-up is lost: the condition
/// reads them with memory_order_seq_cst, and whoever makes it true stores with memory_order_seq_cst before he
/// calls wake(). Then either he sees the sleeper, or the sleeper sees the store.
class WaitingPlace {
 public:
  template <typename Condition>
  void wait(const Condition& condition, SpinTime spin) {
    if (spins_until(condition, spin)) {
      return;
    }
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    changed_.wait(lock, condition);
    sleepers_.fetch_sub(1);
  }

  /// Costs one load when nobody sleeps.
  void wake() {
    if (sleepers_.load() != 0) {
      { const std::lock_guard lock(mutex_); }  // a sleeper between his last look and his sleep holds it
      changed_.notify_all();
    }
  }

 private:
  template <typename Condition>
  static bool spins_until(const Condition& condition, SpinTime spin) {
    constexpr int kPausesPerLookAtTheClock = 32;
    const auto begin = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < kPausesPerLookAtTheClock; ++i) {
        if (condition()) {
          return true;
        }
        _mm_pause();
      }
    } while (std::chrono::steady_clock::now() - begin < spin);
    return false;
  }

  std::atomic<int32_t> sleepers_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace sluice::offload
