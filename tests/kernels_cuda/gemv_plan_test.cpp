// The cut of a GEMV into blocks: everything covered once, everything on the GPU at once where that is
// possible.
#include "kernels_cuda/gemv_plan.h"

#include <gtest/gtest.h>

#include "support/random_tensors.h"

namespace sluice::testing {
namespace {

TEST(GemvPlan, CoversTheMatrixWithinCapacity) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < 10000; ++i) {
    const cuda::GemvShape shape{
        .groups = random.integer(1, 3000), .steps = random.integer(1, 1000), .least = random.integer(1, 32)};
    const int64_t capacity = random.integer(1, 600);
    const cuda::GemvPlan plan = cuda::gemv_plan(shape, capacity);
    EXPECT_GE(plan.slices * plan.steps_per_slice, shape.steps);
    EXPECT_LT((plan.slices - 1) * plan.steps_per_slice, shape.steps);
    EXPECT_GE(plan.blocks, 1);
    EXPECT_LE(plan.blocks * plan.slices, capacity);
    // No block goes round more often than it must.
    EXPECT_EQ((shape.groups + plan.blocks - 1) / plan.blocks, (shape.groups + capacity - 1) / capacity);
  }
}

TEST(GemvPlan, RealShapes) {
  // 7168 columns of Q8_0 are 224 steps; 132 multiprocessors hold 528 blocks.
  EXPECT_EQ(cuda::gemv_plan({.groups = 12, .steps = 224, .least = 8}, 528),
            (cuda::GemvPlan{.blocks = 12, .slices = 28, .steps_per_slice = 8}));
  EXPECT_EQ(cuda::gemv_plan({.groups = 192, .steps = 48, .least = 8}, 528),
            (cuda::GemvPlan{.blocks = 192, .slices = 2, .steps_per_slice = 24}));
  EXPECT_EQ(cuda::gemv_plan({.groups = 1010, .steps = 224, .least = 8}, 528),
            (cuda::GemvPlan{.blocks = 505, .slices = 1, .steps_per_slice = 224}));
  // A block of 32 warps for each of 132 multiprocessors: few panels of many columns, and many of few.
  EXPECT_EQ(cuda::gemv_stream_plan({.panels = 96, .steps = 224}, 132),
            (cuda::GemvStreamPlan{.group_panels = 1, .shares = 28, .steps_per_share = 8}));
  EXPECT_EQ(cuda::gemv_stream_plan({.panels = 1536, .steps = 48}, 132),
            (cuda::GemvStreamPlan{.group_panels = 4, .shares = 6, .steps_per_share = 8}));
}

TEST(GemvPlan, SharesCoverEveryPanel) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < 10000; ++i) {
    const cuda::GemvStreamShape shape{.panels = random.integer(1, 10000),
                                      .steps = random.integer(1, 1000),
                                      .depth = random.integer(1, 8),
                                      .least_panels = random.integer(1, 2),
                                      .warps = random.integer(0, 1) == 0 ? 16 : 32};
    const cuda::GemvStreamPlan plan = cuda::gemv_stream_plan(shape, random.integer(1, 600));
    EXPECT_GE(plan.shares * plan.steps_per_share, shape.steps);
    EXPECT_GE(plan.shares, 1);
    EXPECT_GE(plan.group_panels, shape.least_panels);
    EXPECT_EQ(plan.group_panels % shape.least_panels, 0);
    EXPECT_LE(plan.group_panels * plan.shares, shape.warps);
  }
}

}  // namespace
}  // namespace sluice::testing
