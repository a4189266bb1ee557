#include "offload/workers.h"

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <algorithm>
#include <cassert>
#include <exception>
#include <vector>

#include "offload/happens_before.h"

namespace sluice::offload {

struct Workers::Arena {
  explicit Arena(int threads)
      : limit(oneapi::tbb::global_control::max_allowed_parallelism, static_cast<size_t>(threads)),
        arena(threads),
        slots(static_cast<size_t>(threads)) {}
  // Without it oneTBB caps its pool at the number of processors, and `-t 8` on two cores would run on two.
  oneapi::tbb::global_control limit;
  oneapi::tbb::task_arena arena;
  HappensBefore start;
  HappensBefore end;
  std::vector<HappensBefore> slots;  // of the workers: their calls come one after the other
};

Workers::Workers(int64_t threads)
    : threads_(threads), arena_(std::make_unique<Arena>(static_cast<int>(threads))) {
  assert(threads >= 1);
}

Workers::~Workers() = default;

void Workers::run(int64_t n, int64_t grain, RangeFn fn, void* context) {
  if (n <= 0) {
    return;
  }
  grain = std::max<int64_t>(grain, 1);
  if (threads_ == 1 || n <= grain) {
    for (int64_t begin = 0; begin < n; begin += grain) {
      fn(context, begin, std::min(begin + grain, n), 0);
    }
    return;
  }
  const int64_t ranges = (n + grain - 1) / grain;
  // oneTBB would carry the exception as well, but past the marks of what happens before what.
  std::exception_ptr failure;
  arena_->start.release();
  arena_->arena.execute([&] {
    oneapi::tbb::task_group_context group;
    oneapi::tbb::parallel_for(
        oneapi::tbb::blocked_range<int64_t>(0, ranges, 1),
        [&](const oneapi::tbb::blocked_range<int64_t>& part) {
          const int64_t worker = oneapi::tbb::this_task_arena::current_thread_index();
          HappensBefore& slot = arena_->slots[static_cast<size_t>(worker)];
          arena_->start.acquire();
          slot.acquire();
          try {
            for (int64_t r = part.begin(); r != part.end(); ++r) {
              fn(context, r * grain, std::min((r + 1) * grain, n), worker);
            }
          } catch (...) {
            if (group.cancel_group_execution()) {  // true for the first one only
              failure = std::current_exception();
            }
          }
          slot.release();
          arena_->end.release();
        },
        oneapi::tbb::simple_partitioner{}, group);
  });
  arena_->end.acquire();
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace sluice::offload
