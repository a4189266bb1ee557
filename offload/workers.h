// The threads that compute: one oneTBB arena of a fixed number of workers.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace sluice::offload {

class Workers {
 public:
  /// `threads` >= 1 workers, the calling thread included.
  explicit Workers(int64_t threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  [[nodiscard]] int64_t threads() const { return threads_; }

  /// Calls fn(begin, end, worker) on ranges that cover [0, n), each at most `grain` long, and waits for all.
  /// `worker` is in [0, threads()): no two calls run at once with the same one, so it indexes scratch memory.
  /// Which range meets which worker changes from run to run. The first exception of fn reaches the caller;
  /// ranges that have not begun by then are skipped. fn must not call for_ranges of the same Workers: the
  /// inner call would share the outer one's worker numbers.
  template <typename Fn>
  void for_ranges(int64_t n, int64_t grain, Fn&& fn) {
    auto call = [](void* context, int64_t begin, int64_t end, int64_t worker) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(begin, end, worker);
    };
    run(n, grain, call, &fn);
  }

 private:
  using RangeFn = void (*)(void* context, int64_t begin, int64_t end, int64_t worker);
  void run(int64_t n, int64_t grain, RangeFn fn, void* context);

  struct Arena;
  int64_t threads_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace sluice::offload
