// The lightning indexer's scores, a tile of keys at a time.
#include "kernels_cpu/indexer.h"

#include <algorithm>
#include <cassert>

#include "kernels_cpu/scratch.h"

namespace sluice::cpu {
namespace {

// Keys of a tile: 32 keys of 128 floats are 16 KiB, half an L1 cache. Chosen; results do not depend on it.
constexpr int64_t kTileKeys = 32;

}  // namespace

int64_t index_scratch_floats(int64_t heads, int64_t head_dim) {
  return kScratchSlack + whole_lines(kTileKeys * head_dim) + heads * kTileKeys;
}

void index_scores(const Kernels& kernels, MatrixView<const float> query, std::span<const float> weights,
                  const CacheRows& keys, std::span<float> scores, std::span<float> scratch) {
  assert(query.cols == keys.cols && static_cast<int64_t>(weights.size()) == query.rows);
  assert(static_cast<int64_t>(scratch.size()) >= index_scratch_floats(query.rows, query.cols));
  float* tile = aligned_scratch(scratch);                       // [kTileKeys, cols] decoded keys
  float* products = tile + whole_lines(kTileKeys * keys.cols);  // [heads, kTileKeys]
  const auto count = static_cast<int64_t>(scores.size());
  for (int64_t begin = 0; begin < count; begin += kTileKeys) {
    const int64_t n = std::min(kTileKeys, count - begin);
    for (int64_t j = 0; j < n; ++j) {
      keys.read(kernels, begin + j, tile + j * keys.cols);
    }
    kernels.gemm_nt({.a = query.data,
                     .lda = query.row_stride,
                     .b = tile,
                     .ldb = keys.cols,
                     .c = products,
                     .ldc = kTileKeys,
                     .m = query.rows,
                     .n = n,
                     .k = keys.cols});
    kernels.index_reduce(products, kTileKeys, weights.data(), query.rows, n, scores.data() + begin);
  }
}

}  // namespace sluice::cpu
