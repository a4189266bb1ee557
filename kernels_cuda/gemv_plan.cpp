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

GemvStreamPlan gemv_stream_plan(const GemvStreamShape& shape, int64_t capacity) {
  assert(shape.panels >= 1 && shape.steps >= 1 && shape.depth >= 1 && capacity >= 1);
  assert(shape.least_panels >= 1 && shape.least_panels <= shape.warps);
  // Steps that a warp goes through one after the other; a group costs about two more.
  const auto cost = [&](int64_t group_panels) {
    const int64_t rounds = ceil_div(ceil_div(shape.panels, group_panels), capacity);
    return rounds * (ceil_div(shape.steps * group_panels, shape.warps) + 2);
  };
  GemvStreamPlan plan{.group_panels = shape.least_panels};
  int64_t least = cost(plan.group_panels);
  for (int64_t panels = plan.group_panels * 2; panels <= shape.warps; panels *= 2) {
    if (shape.panels / panels < capacity) break;
    if (cost(panels) * 20 >= least * 19) continue;
    plan.group_panels = panels;
    least = cost(panels);
  }
  const int64_t most = shape.warps / plan.group_panels;
  plan.shares = most;
  for (int64_t shares = most; shares * 4 >= most * 3; --shares) {  // a quarter of the warps may stay out
    if (shape.steps % (shares * shape.depth) == 0) {
      plan.shares = shares;
      break;
    }
  }
  plan.steps_per_share = ceil_div(shape.steps, plan.shares);
  return plan;
}

}  // namespace sluice::cuda
