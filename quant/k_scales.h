// The eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K pack into twelve bytes.
//
//            bits 7..6                bits 5..0
//   byte j     (j = 0..3)   scale j+4, its top two     scale j
//   byte j+4   (j = 0..3)   minimum j+4, its top two   minimum j
//   byte j+8   (j = 0..3)   bits 7..4: minimum j+4, its low four; bits 3..0: scale j+4, its low four
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

namespace sluice::quant {

inline constexpr size_t kKSubBlocks = 8;
inline constexpr size_t kKScaleBytes = 12;

struct ScaleMin {
  uint8_t scale;  // 0..63
  uint8_t min;    // 0..63

  bool operator==(const ScaleMin&) const = default;
};

inline ScaleMin unpack_scale_min(const uint8_t (&packed)[kKScaleBytes], size_t sub_block) {
  assert(sub_block < kKSubBlocks);
  const size_t j = sub_block % 4;
  if (sub_block < 4) {
    return {static_cast<uint8_t>(packed[j] & 63U), static_cast<uint8_t>(packed[j + 4] & 63U)};
  }
  const uint32_t low = packed[j + 8];
  const uint32_t scale_top = packed[j];
  const uint32_t min_top = packed[j + 4];
  return {static_cast<uint8_t>((low & 15U) | (scale_top >> 6) << 4),
          static_cast<uint8_t>((low >> 4) | (min_top >> 6) << 4)};
}

/// Writes all twelve bytes.
inline void pack_scale_mins(const ScaleMin (&values)[kKSubBlocks], uint8_t (&packed)[kKScaleBytes]) {
  for (size_t j = 0; j < 4; ++j) {
    const ScaleMin& low = values[j];
    const ScaleMin& high = values[j + 4];
    assert(low.scale < 64 && low.min < 64 && high.scale < 64 && high.min < 64);
    packed[j] = static_cast<uint8_t>(low.scale | (high.scale >> 4U) << 6);
    packed[j + 4] = static_cast<uint8_t>(low.min | (high.min >> 4U) << 6);
    packed[j + 8] = static_cast<uint8_t>((high.scale & 15U) | (high.min & 15U) << 4);
  }
}

}  // namespace sluice::quant
