// The 6-bit packing of Q4_K and Q5_K against the formulas of the GGUF specification.
#include "quant/k_scales.h"

#include <gtest/gtest.h>

#include "support/random_tensors.h"

namespace sluice::quant {
namespace {

TEST(KScales, UnpacksByTheSpecification) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 1000; ++trial) {
    uint8_t s[12];
    for (uint8_t& byte : s) {
      byte = static_cast<uint8_t>(random.integer(0, 255));
    }
    for (size_t j = 0; j < 8; ++j) {
      const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
      ASSERT_EQ(unpack_scale_min(s, j).scale, scale) << j;
      ASSERT_EQ(unpack_scale_min(s, j).min, min) << j;
    }
  }
}

TEST(KScales, PackingIsUndoneByUnpacking) {
  // Every level in every place, with the other places at their complement.
  for (uint8_t level = 0; level < 64; ++level) {
    for (size_t place = 0; place < 16; ++place) {
      ScaleMin levels[8];
      const auto other = static_cast<uint8_t>(63 - level);
      for (size_t j = 0; j < 8; ++j) {
        levels[j] = {place == 2 * j ? level : other, place == 2 * j + 1 ? level : other};
      }
      uint8_t packed[12];
      pack_scale_mins(levels, packed);
      for (size_t j = 0; j < 8; ++j) {
        ASSERT_EQ(unpack_scale_min(packed, j), levels[j]) << "level " << int{level} << " place " << place;
      }
    }
  }
}

}  // namespace
}  // namespace sluice::quant
