// Rows of the latent cache in device memory: what attention reads for a token, in three formats (spec of the
// model, section 3.1). A row holds the latent vector (d_latent values, keys and values of all heads) and the
// rotated key (d_rope).
#pragma once

#include <cstdint>

namespace sluice::cuda {

enum class LatentFormat {
  kF32,   // d_latent + d_rope floats
  kBf16,  // d_latent + d_rope bf16: 1152 bytes at 512 + 64
  kFp8,   // d_latent e4m3 codes, ceil(d_latent / 128) float scales (value = code * scale), d_rope bf16: 656
          // bytes
};

/// Bytes of one row: the least row_bytes of LatentRows.
constexpr int64_t latent_row_bytes(LatentFormat format, int64_t d_latent, int64_t d_rope) {
  switch (format) {
    case LatentFormat::kF32:
      return 4 * (d_latent + d_rope);
    case LatentFormat::kBf16:
      return 2 * (d_latent + d_rope);
    case LatentFormat::kFp8:
      return d_latent + 4 * ((d_latent + 127) / 128) + 2 * d_rope;
  }
  return 0;
}

/// A view: row r starts at data + r * row_bytes. data and row_bytes must be multiples of 16 for the kernels
/// of the real shape (512 + 64), of 4 for the others.
struct LatentRows {
  const void* data = nullptr;  // device
  LatentFormat format = LatentFormat::kBf16;
  int64_t n_rows = 0;
  int64_t row_bytes = 0;
};

}  // namespace sluice::cuda
