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

}  // namespace sluice::cuda
