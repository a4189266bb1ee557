// Shares of the chosen experts' panels: every column once, few rounds.
#include "kernels_cuda/chosen_plan.h"

#include <gtest/gtest.h>

#include <bit>

#include "support/random_tensors.h"

namespace sluice::testing {
namespace {

TEST(ChosenPlan, SharesCoverEveryPanel) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < 10000; ++i) {
    const cuda::ChosenShape shape{.panels = random.integer(1, 2000),
                                  .matrices = random.integer(1, 2),
                                  .used = random.integer(1, 128),
                                  .steps = random.integer(1, 1000),
                                  .depth = random.integer(1, 4),
                                  .warps = 16 * random.integer(1, 2)};
    const cuda::ChosenPlan plan = cuda::chosen_plan(shape, random.integer(1, 200));
    ASSERT_TRUE(std::has_single_bit(static_cast<uint64_t>(plan.shares)));
    EXPECT_EQ(plan.steps_per_share % shape.depth, 0);
    EXPECT_GE(plan.shares * plan.steps_per_share, shape.steps);
    // A unit's jobs have room, whole units fill it.
    EXPECT_EQ(cuda::kMostChosenJobs % (plan.shares * shape.matrices), 0);
  }
}

TEST(ChosenPlan, RealShapes) {
  // 8 experts of 2048 x 7168 on 132 multiprocessors: 8 pairs of panels for a block, and 28 panels of the down
  // matrix, whose 64 steps are two shares.
  EXPECT_EQ(cuda::chosen_plan({.panels = 128, .matrices = 2, .used = 8, .steps = 224}, 132),
            (cuda::ChosenPlan{.shares = 4, .steps_per_share = 56}));
  EXPECT_EQ(cuda::chosen_plan({.panels = 448, .matrices = 1, .used = 8, .steps = 64}, 132),
            (cuda::ChosenPlan{.shares = 2, .steps_per_share = 32}));
}

}  // namespace
}  // namespace sluice::testing
