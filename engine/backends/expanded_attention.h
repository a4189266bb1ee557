// Which of two forms dense attention of a tile of tokens takes on a GPU (model formula 2.5), and where the
// expanded one works. Without CUDA: functions of shapes alone.
#pragma once

#include <cstdint>

#include "engine/backends/device_layout.h"
#include "engine/caches.h"
#include "engine/model_config.h"

namespace sluice {

struct ExpandedAttentionShape {
  const ModelConfig& config;
  CacheType cache = CacheType::kBF16;
  int64_t first_position = 0;  // of the tile
  int64_t n_tokens = 0;
  int64_t multiprocessors = 0;

  /// That the last token attends to.
  [[nodiscard]] int64_t rows() const { return first_position + n_tokens; }
};

/// Working memory for so many heads at a time. All bf16.
struct ExpandedAttentionBuffers {
  ExpandedAttentionBuffers(const ExpandedAttentionShape& shape, int64_t heads, DeviceLayout& layout);
  uint16_t* rows;     // [rows, d_latent + d_rope] of an FP8 cache; of others nothing
  uint16_t* weights;  // cuda::latent_expansion_weights()
  uint16_t* keys;     // [heads, rows, d_nope]
  uint16_t* values;   // [heads, rows, d_value]
};

/// Heads whose keys and values are expanded at a time in `bytes` of working memory, or 0: the absorbed form
/// is taken, because it does not have more floating-point operations, or the kernels or the memory do not
/// take the other one. Operations of the expanded form count for more where its blocks do not fill the
/// multiprocessors.
int64_t expanded_attention_heads(const ExpandedAttentionShape& shape, int64_t bytes);

}  // namespace sluice
