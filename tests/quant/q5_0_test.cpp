// Q5_0: blocks built by hand; the fifth bits are what can go wrong.
#include "quant/q5_0.h"

#include <gtest/gtest.h>

#include <array>

namespace sluice::quant {
namespace {

TEST(Q5_0, DecodesByHand) {
  BlockQ5_0 block{.d = 0x3400, .qh = {}, .qs = {}};  // 0.25
  block.qs[0] = 0xF0;                                // low bits: element 0: 0, element 16: 15
  block.qs[9] = 0x3C;                                // element 9: 12, element 25: 3
  block.qs[15] = 0xFF;                               // elements 15 and 31: 15
  block.qh[0] = 0x01;                                // bit 0: element 0
  block.qh[1] = 0x02;                                // bit 9: element 9
  block.qh[3] = 0x82;                                // bit 25: element 25; bit 31: element 31
  std::array<float, 32> values;
  dequantize(block, values);
  EXPECT_EQ(values[0], 0.0F);     // 16 - 16
  EXPECT_EQ(values[16], -0.25F);  // 15 - 16
  EXPECT_EQ(values[9], 3.0F);     // 28 - 16 = 12
  EXPECT_EQ(values[25], 0.75F);   // 19 - 16 = 3
  EXPECT_EQ(values[15], -0.25F);  // 15 - 16
  EXPECT_EQ(values[31], 3.75F);   // 31 - 16 = 15
  EXPECT_EQ(values[1], -4.0F);    // 0 - 16
}

}  // namespace
}  // namespace sluice::quant
