// Values of a latent row on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels_cuda/latent_rows.h"

namespace sluice::cuda::device {

/// Two e4m3 codes, in the high byte of each half of `codes`, as fp16 of value / 256: sign, exponent and
/// mantissa move to where fp16 has them, which is exact for every finite code, subnormals too (the codes of
/// NaN become 480).
__device__ __forceinline__ float2 e4m3_over_256(uint32_t codes) {
  const uint32_t bits = (codes & 0x80008000U) | ((codes >> 1) & 0x3F803F80U);
  __half2 halves;
  memcpy(&halves, &bits, sizeof halves);
  return __half22float2(halves);
}

/// Four codes (the bytes of `codes`) times scale_256 / 256, as bf16.
__device__ __forceinline__ uint2 e4m3_to_bf16(uint32_t codes, float scale_256) {
  const float2 low = e4m3_over_256(__byte_perm(codes, 0, 0x1404));
  const float2 high = e4m3_over_256(__byte_perm(codes, 0, 0x3424));
  const __nv_bfloat162 a = __floats2bfloat162_rn(low.x * scale_256, low.y * scale_256);
  const __nv_bfloat162 b = __floats2bfloat162_rn(high.x * scale_256, high.y * scale_256);
  uint2 out;
  memcpy(&out.x, &a, sizeof a);
  memcpy(&out.y, &b, sizeof b);
  return out;
}

/// Value `i` of the row at `row`, exactly.
__device__ __forceinline__ float latent_value(LatentFormat format, const uint8_t* row, int d_latent, int i) {
  if (format == LatentFormat::kF32) {
    return reinterpret_cast<const float*>(row)[i];
  }
  if (format == LatentFormat::kBf16) {
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[i]);
  }
  const uint8_t* scales = row + d_latent;
  if (i < d_latent) {
    const float scale = reinterpret_cast<const float*>(scales)[i / 128];
    return e4m3_over_256(uint32_t{row[i]} << 8).x * (scale * 256.0F);
  }
  const uint8_t* rope = scales + 4 * ((d_latent + 127) / 128);
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(rope)[i - d_latent]);
}

}  // namespace sluice::cuda::device
