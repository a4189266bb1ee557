// A latent cache for tests: rows that may be read hold random values, all others NaN, and what the rows hold
// after the format's rounding is known.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels_cuda/kernels_cuda.h"
#include "kernels_cuda/latent_rows.h"
#include "quant/base/number.h"
#include "support/random_tensors.h"

namespace sluice::testing {

enum class Scales { kPowersOfTwo, kAny };

struct LatentCache {
  cuda::LatentFormat format = cuda::LatentFormat::kBf16;
  int64_t d_latent = 512;
  int64_t d_rope = 64;
  int64_t row_bytes = 0;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [n_rows, d_latent + d_rope]; NaN where nobody may read
  cuda::DeviceBuffer<std::byte> there;

  [[nodiscard]] int64_t dims() const { return d_latent + d_rope; }
  [[nodiscard]] int64_t n_rows() const { return static_cast<int64_t>(bytes.size()) / row_bytes; }
  [[nodiscard]] cuda::LatentRows rows() const { return {there.data(), format, n_rows(), row_bytes}; }
};

/// e4m3 codes of the latent values, one scale for 128 of them; bf16 for the rest.
inline void write_fp8_row(Random& random, Scales scales, std::byte* to, std::vector<float>& values,
                          int64_t d_latent) {
  const int64_t groups = (d_latent + 127) / 128;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t end = std::min(d_latent, 128 * (group + 1));
    float largest = 1e-4F;
    for (int64_t i = 128 * group; i < end; ++i) {
      largest = std::max(largest, std::abs(values[static_cast<size_t>(i)]));
    }
    float scale = largest / 448.0F * random.uniform(1.0F, 1.5F);
    if (scales == Scales::kPowersOfTwo) {
      scale = std::exp2(std::ceil(std::log2(scale)));
    }
    std::memcpy(to + d_latent + 4 * group, &scale, sizeof scale);
    for (int64_t i = 128 * group; i < end; ++i) {
      float& value = values[static_cast<size_t>(i)];
      const uint8_t code = f32_to_e4m3(value / scale);
      to[i] = static_cast<std::byte>(code);
      value = bf16_to_f32(f32_to_bf16(e4m3_to_f32(code) * scale));  // exact where the scale is a power of two
    }
  }
  for (int64_t i = d_latent; i < static_cast<int64_t>(values.size()); ++i) {
    float& value = values[static_cast<size_t>(i)];
    const uint16_t bits = f32_to_bf16(value);
    std::memcpy(to + d_latent + 4 * groups + 2 * (i - d_latent), &bits, sizeof bits);
    value = bf16_to_f32(bits);
  }
}

/// `is_used[r]`: whether row r may be read.
inline LatentCache make_latent_cache(Random& random, cuda::LatentFormat format,
                                     const std::vector<bool>& is_used, int64_t d_latent = 512,
                                     int64_t d_rope = 64, Scales scales = Scales::kPowersOfTwo) {
  LatentCache cache{.format = format,
                    .d_latent = d_latent,
                    .d_rope = d_rope,
                    .row_bytes = 0,
                    .bytes = {},
                    .values = {},
                    .there = {}};
  cache.row_bytes = cuda::latent_row_bytes(format, d_latent, d_rope);
  cache.bytes.assign(is_used.size() * static_cast<size_t>(cache.row_bytes),
                     std::byte{0xFF});  // NaN in every format
  for (size_t r = 0; r < is_used.size(); ++r) {
    std::vector<float> row(static_cast<size_t>(cache.dims()), std::numeric_limits<float>::quiet_NaN());
    if (is_used[r]) {
      std::byte* to = cache.bytes.data() + static_cast<int64_t>(r) * cache.row_bytes;
      row = random.normal(cache.dims(), 0.1F);
      if (format == cuda::LatentFormat::kFp8) {
        write_fp8_row(random, scales, to, row, d_latent);
      } else if (format == cuda::LatentFormat::kF32) {
        std::memcpy(to, row.data(), row.size() * sizeof(float));
      } else {
        for (size_t i = 0; i < row.size(); ++i) {
          const uint16_t bits = f32_to_bf16(row[i]);
          std::memcpy(to + 2 * i, &bits, sizeof bits);
          row[i] = bf16_to_f32(bits);
        }
      }
    }
    cache.values.insert(cache.values.end(), row.begin(), row.end());
  }
  cache.there = cuda::DeviceBuffer<std::byte>(cache.bytes);
  return cache;
}

}  // namespace sluice::testing
