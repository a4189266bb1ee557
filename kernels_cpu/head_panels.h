// Queries with heads in lanes: how index scores and latent attention multiply all heads with a tile of cached
// rows. Products then need no sums over lanes, and what follows (softmax, ReLU and weights) works on all
// heads of a vector at once.
//
// Heads [32 p, 32 p + 32) form panel p: [cols, 32] floats, column c of head 32 p + i at c * 32 + i. A product
// reads a panel from its first byte to its last; rows of all heads side by side would be read with gaps,
// which meet in few lines of L1.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels_cpu/kernels.h"
#include "quant/base/view.h"

namespace sluice::cpu {

inline constexpr int64_t kPanelHeads = 32;  // two vectors of 16 lanes: gemm_nn_add's tile

constexpr int64_t head_panels(int64_t heads) {
  return (heads + kPanelHeads - 1) / kPanelHeads;
}
/// Heads of panel p: kPanelHeads except perhaps in the last.
constexpr int64_t panel_heads(int64_t heads, int64_t p) {
  return std::min(kPanelHeads, heads - p * kPanelHeads);
}

/// query [heads, cols] -> panels [head_panels(heads), cols, kPanelHeads]; lanes beyond `heads` are not
/// written.
inline void pack_heads(const Kernels& kernels, MatrixView<const float> query, float* panels) {
  for (int64_t p = 0; p < head_panels(query.rows); ++p) {
    kernels.transpose(query.data + p * kPanelHeads * query.row_stride, query.row_stride,
                      panel_heads(query.rows, p), query.cols, panels + p * query.cols * kPanelHeads,
                      kPanelHeads);
  }
}

}  // namespace sluice::cpu
