// Which shapes attention in the expanded form takes, and how many heads are expanded at a time: pure
// functions of shapes, without CUDA.
#pragma once

#include <cstdint>

namespace sluice::cuda {

/// Dimensions of a head: scores are over d_nope + d_rope of them.
struct MlaExpandedShape {
  int64_t d_nope = 128;
  int64_t d_rope = 64;
  int64_t d_value = 128;
};

/// Queries of a block, which share the reads of a head's rows.
inline constexpr int64_t kMlaExpandedQueries = 128;

/// Whether launch_mla_expanded has a kernel for the shape: 128 + 64 and 128, no other. Pure.
bool mla_expanded_takes(const MlaExpandedShape& shape);

/// Heads whose keys and values are expanded at a time, 1 to n_heads: enough for two blocks on each of the
/// multiprocessors, in groups of the same size (the last one may be smaller). Pure.
int64_t mla_expanded_heads(int64_t n_queries, int64_t n_heads, int64_t multiprocessors);

/// Values of bf16 that the weights of so many heads take while rows are expanded (latent_expansion.h). Pure.
int64_t latent_expansion_weights(const MlaExpandedShape& shape, int64_t d_latent, int64_t heads);

}  // namespace sluice::cuda
