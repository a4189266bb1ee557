// How attention is laid over a GPU and what that takes: pure functions of shapes, without CUDA, so that a
// plan for a machine that is not here can call them.
#pragma once

#include <cstdint>

namespace sluice::cuda {

/// How a call of launch_mla is laid over the GPU.
struct MlaPlan {
  enum class Tiles {
    kHeads64Rows16,  // for throughput: half the reads of rows
    kHeads32Rows32,  // for few rows a block, or few heads
  };
  Tiles tiles = Tiles::kHeads64Rows16;
  int64_t splits =
      1;  // blocks that share the rows of a query, each with a part of them; in [1, kMostMlaSplits]
};
inline constexpr int64_t kMostMlaSplits = 128;

/// The plan that keeps `multiprocessors` busy. `most_rows` bounds counts[q]. Pure.
MlaPlan plan_mla(int64_t n_queries, int64_t n_heads, int64_t most_rows, int64_t multiprocessors);

/// Bytes of scratch for a call.
int64_t mla_scratch_bytes(int64_t n_queries, int64_t n_heads, int64_t d_latent, int64_t splits);

}  // namespace sluice::cuda
