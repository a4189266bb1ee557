#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels_cuda/device/ptx.cuh"
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/run_block.h"

namespace sluice::emulator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(NumberIntrinsics, Bytes) {
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x7362), 0x77336622U);
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x0145), 0x00114455U);
  EXPECT_EQ(cuda::ptx::permute(0x80FF7F00, 0, 0xBA98), 0xFFFF0000U);  // signs of bytes 3, 2, 1, 0
}

TEST(NumberIntrinsics, Bits) {
  EXPECT_EQ(__popc(0xF0F0U), 8);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__clzll(1), 63);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__brev(0x00000003U), 0xC0000000U);
  EXPECT_EQ(__float_as_uint(-1.0F), 0xBF800000U);
  EXPECT_EQ(__int_as_float(0x40000000), 2.0F);
}

TEST(NumberIntrinsics, RoundsToTheNearestInteger) {
  EXPECT_EQ(__float2int_rn(2.5F), 2);
  EXPECT_EQ(__float2int_rn(-3.5F), -4);
  EXPECT_EQ(__float2int_rn(3e9F), INT32_MAX);
  EXPECT_EQ(__float2int_rn(-kInfinity), INT32_MIN);
  EXPECT_EQ(__float2int_rn(NAN), 0);
}

TEST(NumberIntrinsics, LeastAndLargest) {
  EXPECT_EQ(::min(-1, int64_t{5}), -1);
  EXPECT_EQ(::max(-1, 5U), UINT32_MAX);  // as in C, where the int becomes unsigned
  EXPECT_EQ(::max(NAN, 1.0F), 1.0F);
  EXPECT_EQ(cuda::ptx::max_nan(-3.0F, 2.0F), 2.0F);
  EXPECT_TRUE(std::isnan(cuda::ptx::max_nan(1.0F, NAN)));
  EXPECT_TRUE(std::isnan(cuda::ptx::max_nan(NAN, 1.0F)));
}

TEST(NumberIntrinsics, PowersOfTwo) {
  EXPECT_EQ(cuda::ptx::fast_exp2(-3.0F), 0.125F);
  EXPECT_EQ(cuda::ptx::fast_exp2(-kInfinity), 0.0F);
  EXPECT_EQ(cuda::ptx::fast_exp2(-126.0F), std::numeric_limits<float>::min());
  EXPECT_EQ(cuda::ptx::fast_exp2(-126.5F), 0.0F);  // no subnormal
  EXPECT_EQ(rsqrtf(4.0F), 0.5F);
}

TEST(MemoryIntrinsics, AtomicFunctionsReturnWhatWasThere) {
  unsigned value = 5;
  EXPECT_EQ(atomicAdd(&value, 2), 5U);
  EXPECT_EQ(atomicMin(&value, 6), 7U);
  EXPECT_EQ(atomicMax(&value, 8), 6U);
  EXPECT_EQ(atomicOr(&value, 1), 8U);
  EXPECT_EQ(atomicExch(&value, 3), 9U);
  EXPECT_EQ(atomicCAS(&value, 4, 1), 3U);
  EXPECT_EQ(atomicCAS(&value, 3, 2), 3U);
  EXPECT_EQ(atomicInc(&value, 2), 2U);
  EXPECT_EQ(value, 0U);
  float sum = 0.5F;
  EXPECT_EQ(atomicAdd(&sum, 1.0F), 0.5F);
  EXPECT_EQ(sum, 1.5F);
}

TEST(MemoryIntrinsics, LoadsAndStores) {
  const std::array<uint4, 2> from = {make_uint4(1, 2, 3, 4), make_uint4(5, 6, 7, 8)};
  EXPECT_EQ(__ldg(&from[1]).z, 7U);
  EXPECT_EQ(__ldcg(&from[0]).y, 2U);
  EXPECT_EQ(__ldcs(&from[0]).w, 4U);
  EXPECT_EQ(__ldcv(&from[0].x), 1U);
  EXPECT_EQ(cuda::ptx::load_streamed(reinterpret_cast<const unsigned char*>(&from[0].z)).y, 4U);
  int to = 0;
  __stcg(&to, 9);
  EXPECT_EQ(to, 9);
}

TEST(MemoryIntrinsicsDeathTest, MisalignedLoads) {
  alignas(16) static const std::array<uint32_t, 8> from{};
  EXPECT_DEATH(run_block(1, [] { __ldg(reinterpret_cast<const uint2*>(&from[1])); }),
               "kernel tested, block .*, thread .*: __ldg of 8 bytes at a misaligned address");
  EXPECT_DEATH(
      run_block(1, [] { cuda::ptx::load_streamed(reinterpret_cast<const unsigned char*>(&from[1])); }),
      "ld.global.v2 of 8 bytes");
}

}  // namespace
}  // namespace sluice::emulator
