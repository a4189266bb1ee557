// A matrix of panels times activations: the loop over panels and tiles of tokens around the panel kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels_cpu/panel.h"
#include "quant/base/view.h"
#include "quant/panel.h"

namespace sluice::cpu {

/// Working memory of quantized activations for up to max_tokens tokens of at most max_cols columns.
class ActivationBuffer {
 public:
  ActivationBuffer(int64_t max_tokens, int64_t max_cols);

  /// The first n_tokens rows of `cols` columns, for weights of this type: what quantize_rows writes and
  /// panel_matmul reads.
  [[nodiscard]] ActivationView view(quant::DType weights, int64_t n_tokens, int64_t cols) const;
  /// Quantizes rows [begin, end) of x for weights of this type. Rows may be shared among threads.
  void quantize_rows(const PanelKernels& kernels, quant::DType weights, MatrixView<const float> x,
                     int64_t begin, int64_t end);

 private:
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> terms_;
};

/// y[t][r] = w.scale * (row r of w) . x[t] for the rows of panels [panel_begin, panel_end) and every token t.
/// w takes int8 (takes_int8), and x was quantized for its type. y [x.n_tokens, w.rows]; only those columns
/// are written.
void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, const ActivationView& x, MatrixView<float> y);
/// The same for float weights and float activations.
void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, MatrixView<const float> x, MatrixView<float> y);

}  // namespace sluice::cpu
