#include "kernels_cuda/gemv_plan.h"

#include <algorithm>
#include <cassert>

namespace sluice::cuda {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

GemvPlan gemv_plan(const GemvShape& shape, int64_t capacity) {
  assert(shape.groups >= 1 && shape.steps >= 1 && shape.least >= 1 && capacity >= 1);
  const int64_t rounds = ceil_div(shape.groups, capacity);
  GemvPlan plan{.blocks = ceil_div(shape.groups, rounds)};
  const int64_t most = std::clamp<int64_t>(capacity / shape.groups, 1, ceil_div(shape.steps, shape.least));
  plan.steps_per_slice = ceil_div(shape.steps, most);
  plan.slices = ceil_div(shape.steps, plan.steps_per_slice);
  return plan;
}

GemvStreamPlan gemv_stream_plan(int64_t panels, int64_t steps, int64_t least_panels, int64_t capacity) {
  assert(panels >= 1 && steps >= 1 && least_panels >= 1 && least_panels <= kGemvStreamWarps);
  constexpr int64_t kLeastSteps = 4;  // of a share; chosen: fewer cost more to add up than to load
  GemvStreamPlan plan{.group_panels = least_panels};
  while (plan.group_panels < kGemvStreamWarps && panels / plan.group_panels > capacity &&
         steps * plan.group_panels < kLeastSteps * kGemvStreamWarps) {
    plan.group_panels *= 2;
  }
  plan.shares = kGemvStreamWarps / plan.group_panels;
  plan.steps_per_share = ceil_div(steps, plan.shares);
  return plan;
}

}  // namespace sluice::cuda
