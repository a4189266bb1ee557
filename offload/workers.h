// The threads that compute: a team of fixed size that spins between jobs for a while, then sleeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

#include "offload/thread_places.h"
#include "offload/waiting.h"

namespace sluice::offload {

/// Binds the thread that makes it to a processor until it is destroyed, on the same thread.
class ThreadBinding {
 public:
  /// A negative `cpu`, or one that the system refuses, changes nothing.
  explicit ThreadBinding(int32_t cpu);
  ~ThreadBinding();
  ThreadBinding(const ThreadBinding&) = delete;
  ThreadBinding& operator=(const ThreadBinding&) = delete;

 private:
  struct Mask;
  std::unique_ptr<Mask> before_;  // null when nothing was changed
};

/// The calling thread is worker 0 and computes like the others. It belongs to the caller, so it is bound only
/// where the caller asks for it with bind_caller(): for a forward pass, not per job, because a system call
/// costs as much as a fork.
///
/// One thread at a time may give work to a team, and not from inside that team's work.
class Workers {
 public:
  /// `threads` >= 1 workers, the calling thread included, wherever the scheduler puts them.
  explicit Workers(int64_t threads);
  /// One worker per place, bound to its processor if it names one.
  explicit Workers(std::vector<ThreadPlace> places);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  [[nodiscard]] int64_t threads() const { return static_cast<int64_t>(places_.size()); }
  /// [threads]
  [[nodiscard]] std::span<const ThreadPlace> places() const { return places_; }

  /// Keeps the calling thread on worker 0's processor while the result lives.
  [[nodiscard]] ThreadBinding bind_caller() const { return ThreadBinding(places_[0].cpu); }

  /// Calls fn(worker) once for each worker in [0, threads()), all at the same time, and waits for all. The
  /// workers may meet at a Barrier of threads(). The first exception of fn reaches the caller; a worker that
  /// throws must not leave others waiting at a barrier.
  template <typename Fn>
  void on_all(Fn&& fn) {
    run(job_of(fn, Attendance::kAll));
  }

  /// Calls fn(begin, end, worker) on ranges that cover [0, n), each at most `grain` long, and waits for all.
  /// `worker` is in [0, threads()): no two calls run at once with the same one, so it indexes scratch memory.
  /// Which range meets which worker changes from run to run, and a worker that comes too late gets none: on a
  /// busy machine nobody waits for a thread that has not started. The first exception of fn reaches the
  /// caller; ranges that have not begun by then are skipped. fn must not call for_ranges of the same
  /// Workers: the inner call would share the outer one's worker numbers.
  template <typename Fn>
  void for_ranges(int64_t n, int64_t grain, Fn&& fn) {
    grain = grain < 1 ? 1 : grain;
    if (threads() == 1 || n <= grain) {
      for (int64_t begin = 0; begin < n; begin += grain) {
        fn(begin, begin + grain < n ? begin + grain : n, int64_t{0});
      }
      return;
    }
    next_.store(0, std::memory_order_relaxed);
    const auto take_ranges = [&](int64_t worker) {
      while (!failed_.load(std::memory_order_relaxed)) {
        const int64_t begin = next_.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n) {
          return;
        }
        fn(begin, begin + grain < n ? begin + grain : n, worker);
      }
    };
    run(job_of(take_ranges, Attendance::kWhoComes));
  }

 private:
  enum class Attendance { kAll, kWhoComes };
  struct Job {
    void (*call)(const void* context, int64_t worker) = nullptr;  // null: the end
    const void* context = nullptr;
    Attendance attendance = Attendance::kAll;
  };
  template <typename Fn>
  static Job job_of(Fn& fn, Attendance attendance) {
    auto call = [](const void* context, int64_t worker) {
      (*static_cast<Fn*>(const_cast<void*>(context)))(worker);
    };
    return {.call = call, .context = static_cast<const void*>(&fn), .attendance = attendance};
  }
  void run(const Job& job);
  void announce(const Job& job);
  void work(int64_t worker);
  bool enter(uint32_t number);
  void call(int64_t worker) noexcept;

  std::vector<ThreadPlace> places_;
  SpinTime spin_;
  // A job and its number, which announces it, arrive with one transfer of a cache line.
  alignas(64) std::atomic<uint32_t> number_ = 0;
  Job job_;  // changed only while nobody is inside
  // The attendance book of the job: its number, whether it is closed, who entered and who is still inside.
  alignas(64) std::atomic<uint64_t> book_ = 0;
  alignas(64) std::atomic<int64_t> next_ = 0;  // for_ranges: where the next range begins
  alignas(64) std::atomic<bool> failed_ = false;
  std::exception_ptr failure_;  // written by the one who set failed_
  WaitingPlace job_place_;      // workers wait here for the next job
  WaitingPlace end_place_;      // worker 0 for the others' end
  std::vector<std::thread> others_;
};

}  // namespace sluice::offload
