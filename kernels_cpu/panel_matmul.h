// A matrix of panels times activations: the loop over panels and tiles of tokens around the panel kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels_cpu/panel.h"
#include "quant/base/view.h"
#include "quant/panel.h"

namespace sluice::cpu {

/// A panel that takes int8, and where its products go.
struct PanelOperand {
  const quant::PanelLayout* layout = nullptr;
  const std::byte* panel = nullptr;
  float* out = nullptr;  // [n_tokens, 16]
};

/// The products of several panels with the same tokens, without second-level scales. All panels are as wide
/// as x, and x was quantized for the numerics of their types.
void panel_products(const PanelKernels& kernels, std::span<const PanelOperand> panels,
                    const ActivationView& x);

/// y[t][r] = w.scale * (row r of w) . x[t] for the rows of panels [panel_begin, panel_end) and every token t.
/// w takes int8 (takes_int8), and x was quantized for its type. y [x.n_tokens, w.rows]; only those columns
/// are written.
void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, const ActivationView& x, MatrixView<float> y);
/// The same for float weights and float activations.
void panel_matmul(const PanelKernels& kernels, const quant::PanelView& w, int64_t panel_begin,
                  int64_t panel_end, MatrixView<const float> x, MatrixView<float> y);

}  // namespace sluice::cpu
