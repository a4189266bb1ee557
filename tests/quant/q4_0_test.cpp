// Q4_0: blocks built by hand.
#include "quant/q4_0.h"

#include <gtest/gtest.h>

#include <array>

namespace sluice::quant {
namespace {

TEST(Q4_0, DecodesByHand) {
  BlockQ4_0 block{.d = 0xC000, .qs = {}};  // -2
  block.qs[0] = 0xF0;                      // element 0: 0, element 16: 15
  block.qs[1] = 0x8A;                      // element 1: 10, element 17: 8
  block.qs[15] = 0x17;                     // element 15: 7, element 31: 1
  std::array<float, 32> values;
  dequantize(block, values);
  EXPECT_EQ(values[0], 16.0F);    // -2 * (0 - 8)
  EXPECT_EQ(values[16], -14.0F);  // -2 * (15 - 8)
  EXPECT_EQ(values[1], -4.0F);
  EXPECT_EQ(values[17], 0.0F);
  EXPECT_EQ(values[15], 2.0F);
  EXPECT_EQ(values[31], 14.0F);
  EXPECT_EQ(values[2], 16.0F);
}

}  // namespace
}  // namespace sluice::quant
