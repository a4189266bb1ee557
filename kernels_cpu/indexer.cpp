// The lightning indexer's scores, a tile of keys at a time.
#include "kernels_cpu/indexer.h"

#include <algorithm>
#include <cassert>
#include <functional>

#include "kernels_cpu/head_panels.h"
#include "kernels_cpu/scratch.h"

namespace sluice::cpu {
namespace {

// Keys of a tile: 32 keys of 128 floats are 16 KiB, half an L1 cache, as is a panel of heads. Measured;
// results do not depend on it.
constexpr int64_t kTileKeys = 32;

}  // namespace

int64_t index_scratch_floats(int64_t heads, int64_t head_dim) {
  const int64_t lanes = head_panels(heads) * kPanelHeads;
  return kScratchSlack + whole_lines(kTileKeys * head_dim) + kTileKeys * lanes +
         kMaxIndexQueries * lanes * head_dim;
}

void index_scores(const Kernels& kernels, const IndexQueries& queries, const CacheRows& keys,
                  MatrixView<float> scores, std::span<float> scratch) {
  const int64_t heads = queries.weights.cols;
  const int64_t dim = keys.cols;
  const int64_t panels = head_panels(heads);
  const int64_t lanes = panels * kPanelHeads;
  assert(scores.rows >= 1 && scores.rows <= kMaxIndexQueries && queries.heads.cols == heads * dim);
  assert(queries.heads.rows == scores.rows && queries.weights.rows == scores.rows);
  assert(static_cast<int64_t>(scratch.size()) >= index_scratch_floats(heads, dim));
  float* tile = aligned_scratch(scratch);                 // [kTileKeys, dim] decoded keys
  float* products = tile + whole_lines(kTileKeys * dim);  // [kTileKeys, lanes]
  float* packed = products + kTileKeys * lanes;           // per query: head panels
  for (int64_t q = 0; q < scores.rows; ++q) {
    pack_heads(kernels, {queries.heads.row(q).data(), heads, dim}, packed + q * lanes * dim);
  }
  // Products between two tiles of keys ask for one tile, those of the first tile for two.
  const int64_t keys_per_product = (kTileKeys + panels * scores.rows - 1) / (panels * scores.rows);
  RowPrefetch next(keys, std::identity{}, 0, scores.cols);
  for (int64_t begin = 0; begin < scores.cols; begin += kTileKeys) {
    const int64_t n = std::min(kTileKeys, scores.cols - begin);
    for (int64_t j = 0; j < n; ++j) {
      keys.read(kernels, begin + j, tile + j * dim);
    }
    for (int64_t q = 0; q < scores.rows; ++q) {
      std::fill_n(products, n * lanes, 0.0F);
      for (int64_t p = 0; p < panels; ++p) {
        next.ask_for(begin == 0 ? 2 * keys_per_product : keys_per_product);
        kernels.gemm_nn_add({.a = tile,
                             .lda = dim,
                             .b = packed + (q * lanes + p * kPanelHeads) * dim,
                             .ldb = kPanelHeads,
                             .c = products + p * kPanelHeads,
                             .ldc = lanes,
                             .m = n,
                             .n = panel_heads(heads, p),
                             .k = dim});
      }
      kernels.index_reduce(products, lanes, queries.weights.row(q).data(), heads, n,
                           scores.row(q).data() + begin);
    }
  }
}

}  // namespace sluice::cpu
