#include "kernels_cuda/chosen_plan.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace sluice::cuda {
namespace {

/// What a job costs beside its steps, in steps. Estimated from the kernel's instructions.
constexpr int64_t kStepsOfJob = 2;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t steps_per_share(const ChosenShape& shape, int64_t shares) {
  return ceil_div(ceil_div(shape.steps, shares), shape.depth) * shape.depth;
}

/// Steps that a warp goes through for one token whose experts are all there.
int64_t cost(const ChosenShape& shape, int64_t shares, int64_t multiprocessors) {
  const int64_t jobs = ceil_div(shape.panels * shape.used, multiprocessors) * shape.matrices * shares;
  return ceil_div(jobs, shape.warps) * (steps_per_share(shape, shares) + kStepsOfJob);
}

}  // namespace

ChosenPlan chosen_plan(const ChosenShape& shape, int64_t multiprocessors) {
  assert(shape.panels >= 1 && shape.used >= 1 && shape.steps >= 1 && multiprocessors >= 1);
  const int64_t most = kMostChosenJobs / (2 * shape.matrices);
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t shares = 1; shares <= most; shares *= 2) {
    least = std::min(least, cost(shape, shares, multiprocessors));
  }
  // The most shares among what costs little more: with fewer experts, or a last round, they spread better.
  ChosenPlan plan;
  for (int64_t shares = 1; shares <= most; shares *= 2) {
    if (cost(shape, shares, multiprocessors) * 20 <= least * 21) {
      plan = {.shares = shares, .steps_per_share = steps_per_share(shape, shares)};
    }
  }
  return plan;
}

}  // namespace sluice::cuda
