// How many tokens go through selecting attention at a time.
#include <gtest/gtest.h>

#include "engine/backends/cuda_activations.h"

namespace sluice {
namespace {

TEST(AttentionSteps, FillTheMultiprocessorsNearly) {
  EXPECT_EQ(cuda_step_tokens(128, 132), 64);   // H200: 66 tokens of two blocks
  EXPECT_EQ(cuda_step_tokens(128, 188), 88);   // RTX PRO 6000: 94
  EXPECT_EQ(cuda_step_tokens(128, 170), 80);   // RTX 5090: 85
  EXPECT_EQ(cuda_step_tokens(128, 82), 80);    // RTX 3090: two waves
  EXPECT_EQ(cuda_step_tokens(128, 108), 104);  // A100: two waves
  EXPECT_EQ(cuda_step_tokens(16, 188), 128) << "the most";
}

TEST(AttentionSteps, AreSixtyFourTokensToTwiceThat) {
  for (int64_t heads = 1; heads <= 256; heads += 15) {
    for (int64_t multiprocessors = 1; multiprocessors <= 200; ++multiprocessors) {
      const int64_t tokens = cuda_step_tokens(heads, multiprocessors);
      ASSERT_GE(tokens, 64) << heads << " heads, " << multiprocessors;
      ASSERT_LE(tokens, 128) << heads << " heads, " << multiprocessors;
      ASSERT_EQ(tokens % 8, 0) << heads << " heads, " << multiprocessors;
    }
  }
}

}  // namespace
}  // namespace sluice
