// Rotary position embedding in the two layouts that DeepSeek-V3.2 uses, and its YaRN table (model
// formula 2.3).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::cpu {

struct YarnParams {
  int64_t dims = 64;  // rotary dimensions, even
  float freq_base = 10000.0F;
  float factor = 1.0F;  // 1 = no scaling
  int64_t original_context = 4096;
  float beta_fast = 32.0F;
  float beta_slow = 1.0F;
};

/// w_i, i in [0, dims/2): angle of pair i per position.
std::vector<float> yarn_frequencies(const YarnParams& params);

/// cos and sin of position * w_i, accurate (double) functions of the float32 product.
/// cos_sin is [dims]: cos in the first half, sin in the second.
void rope_angles(std::span<const float> frequencies, int64_t position, std::span<float> cos_sin);

/// Pairs (x[2i], x[2i+1]): MLA queries and keys. x is [dims], in place.
void rope_interleaved(std::span<const float> cos_sin, std::span<float> x);
/// Pairs (x[i], x[i + dims/2]): indexer queries and keys. x is [dims], in place.
void rope_half_split(std::span<const float> cos_sin, std::span<float> x);

}  // namespace sluice::cpu
