#include "offload/panel_product.h"

#include "kernels_cpu/matmul.h"

namespace sluice::offload {

PanelProduct::Operand PanelProduct::fetch(const ExpertPanel& which, std::span<std::byte> scratch) const {
  Operand operand{.layout = &weights_.share(which.layer, which.node).layout(which.part),
                  .panel = nullptr,
                  .rows = {},
                  .scale = weights_.scale(which.layer, which.part, which.expert)};
  if (arithmetic_ == ExpertArithmetic::kFloat32) {
    operand.rows = weights_.rows(which, scratch);
  } else {
    operand.panel = weights_.panel(which, scratch);
  }
  return operand;
}

void PanelProduct::multiply(const Operand& operand, const Activations& x, int64_t n_tokens, float* out,
                            std::span<float> scratch) const {
  if (operand.panel == nullptr) {  // multiplies by the rows' scale itself
    cpu::matmul_rows(kernels_, operand.rows, 0, operand.rows.rows, x.values,
                     {out, n_tokens, operand.rows.rows, quant::kPanelRows}, scratch);
    return;
  }
  const auto type = static_cast<size_t>(operand.layout->dtype);
  if (cpu::takes_int8(operand.layout->dtype)) {
    panel_kernels_.dot[type](*operand.layout, operand.panel, x.codes, out);
  } else {
    panel_kernels_.float_dot[type](*operand.layout, operand.panel, x.values.data, x.values.row_stride,
                                   n_tokens, out);
  }
  if (operand.scale != 1.0F) {
    kernels_.scale(operand.scale, n_tokens * quant::kPanelRows, out);
  }
}

}  // namespace sluice::offload
