#include "offload/workers.h"

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cassert>
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
  arena_->start.release();
  arena_->arena.execute([&] {
    oneapi::tbb::parallel_for(
        oneapi::tbb::blocked_range<int64_t>(0, ranges, 1),
        [&](const oneapi::tbb::blocked_range<int64_t>& part) {
          const int64_t worker = oneapi::tbb::this_task_arena::current_thread_index();
          HappensBefore& slot = arena_->slots[static_cast<size_t>(worker)];
          arena_->start.acquire();
          slot.acquire();
          for (int64_t r = part.begin(); r != part.end(); ++r) {
            fn(context, r * grain, std::min((r + 1) * grain, n), worker);
          }
          slot.release();
          arena_->end.release();
        },
        oneapi::tbb::simple_partitioner{});
  });
  arena_->end.acquire();
}

}  // namespace sluice::offload
