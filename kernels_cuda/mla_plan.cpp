#include "kernels_cuda/mla_plan.h"

#include <algorithm>
#include <cassert>

namespace sluice::cuda {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

MlaPlan plan_mla(int64_t n_queries, int64_t n_heads, int64_t most_rows, int64_t multiprocessors) {
  assert(n_queries >= 0 && n_heads >= 1 && most_rows >= 0 && multiprocessors >= 1);
  // A block of 64 heads costs half the reads, but writes twice the partial results for the same number of
  // blocks: it pays from 256 rows a block (measured: docs/cuda_attention.md).
  constexpr int64_t kLeastRowsOfWide = 256;
  const auto splits_of = [&](int64_t heads_per_block, int64_t tile_rows) {
    const int64_t blocks = std::max<int64_t>(1, n_queries * ceil_div(n_heads, heads_per_block));
    const int64_t tiles = std::max<int64_t>(1, ceil_div(most_rows, tile_rows));
    const int64_t most = std::clamp<int64_t>(multiprocessors / blocks, 1, std::min(tiles, kMostMlaSplits));
    return ceil_div(tiles, ceil_div(tiles, most));  // none of them empty
  };
  const int64_t wide = splits_of(64, 16);
  if (n_heads > 32 && most_rows / wide >= kLeastRowsOfWide) {
    return {MlaPlan::Tiles::kHeads64Rows16, wide};
  }
  return {MlaPlan::Tiles::kHeads32Rows32, splits_of(32, 32)};
}

int64_t mla_scratch_bytes(int64_t n_queries, int64_t n_heads, int64_t d_latent, int64_t splits) {
  if (splits <= 1) {
    return 0;
  }
  const int64_t partials = n_queries * splits * n_heads;
  return partials * (2 * d_latent + static_cast<int64_t>(sizeof(float)));  // bf16 sums, a float log-sum-exp
}

}  // namespace sluice::cuda
