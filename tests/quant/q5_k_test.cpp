// Q5_K: a block built by hand.
#include "quant/q5_k.h"

#include <gtest/gtest.h>

#include <array>

namespace sluice::quant {
namespace {

TEST(Q5_K, DecodesByHand) {
  BlockQ5_K block{.d = 0x3C00, .dmin = 0x3800, .scales = {}, .qh = {}, .qs = {}};  // 1 and 0.5
  block.scales[0] = 1;                                                             // sub-block 0: scale 1
  block.scales[4] = 2;                                                             //              min 2
  block.scales[3] = 5 | 1 << 6;  // sub-block 3: scale 5; sub-block 7: scale's top bits 01
  block.scales[7] = 6 | 3 << 6;  //              min 6;                min's top bits 11
  block.scales[11] = 0xF0;       // sub-block 7: scale 01'0000 = 16, min 11'1111 = 63
  block.qs[0] = 0x03;            // element 0 of sub-block 0: low bits 3
  block.qs[32 + 9] = 0x7A;       // element 9 of sub-block 2: 10, of sub-block 3: 7
  block.qs[96 + 31] = 0xF4;      // element 31 of sub-block 6: 4, of sub-block 7: 15
  block.qh[0] = 1U << 0U;        // element 0 of sub-block 0: 3 + 16
  block.qh[9] = 1U << 3U;        // element 9 of sub-block 3: 7 + 16
  block.qh[31] = 1U << 7U;       // element 31 of sub-block 7: 15 + 16
  std::array<float, 256> values;
  dequantize(block, values);
  EXPECT_EQ(values[0], 19.0F - 1.0F);
  EXPECT_EQ(values[1], -1.0F);
  EXPECT_EQ(values[64 + 9], 0.0F);  // sub-block 2 has scale and min 0
  EXPECT_EQ(values[96 + 9], 5.0F * 23.0F - 3.0F);
  EXPECT_EQ(values[96 + 10], -3.0F);
  EXPECT_EQ(values[224 + 31], 16.0F * 31.0F - 31.5F);
  EXPECT_EQ(values[224], -31.5F);
}

}  // namespace
}  // namespace sluice::quant
