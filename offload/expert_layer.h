// Where the experts of a layer are in a mapped model file.
#pragma once

#include <cstdint>
#include <span>

#include "quant/tensor.h"

namespace sluice::offload {

/// One of the three matrices of all experts of a layer, experts outermost.
struct ExpertMatrix {
  quant::WeightView all;    // [experts * stride_rows, cols]
  int64_t stride_rows = 0;  // rows from one expert to the next
  int64_t first_row = 0;    // of the matrix inside an expert's rows (fused gate_up: up starts after gate)
  int64_t rows = 0;
  std::span<const float> scales;  // [experts] second-level NVFP4 scales, or empty

  [[nodiscard]] quant::WeightView expert(int64_t e) const {
    quant::WeightView view = all.rows_from(e * stride_rows + first_row, rows);
    view.scale = scales.empty() ? all.scale : scales[static_cast<size_t>(e)];
    return view;
  }
};

struct ExpertLayer {
  int64_t experts = 0;  // 0: a dense layer
  ExpertMatrix gate;    // per expert [d_expert, d_model]
  ExpertMatrix up;      // per expert [d_expert, d_model]
  ExpertMatrix down;    // per expert [d_model, d_expert]
};

}  // namespace sluice::offload
