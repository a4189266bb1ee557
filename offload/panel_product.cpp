#include "offload/panel_product.h"

#include <array>
#include <cassert>

#include "kernels_cpu/matmul.h"
#include "kernels_cpu/panel_matmul.h"

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

void PanelProduct::multiply(std::span<const Operand> operands, const Activations& x, int64_t n_tokens,
                            float* out, std::span<float> scratch) const {
  assert(operands.size() <= kMostOperands);
  std::array<cpu::PanelOperand, kMostOperands> int8;
  size_t int8_count = 0;
  float* target = out;
  for (const Operand& operand : operands) {
    if (operand.panel == nullptr) {  // multiplies by the rows' scale itself
      cpu::matmul_rows(kernels_, operand.rows, 0, operand.rows.rows, x.values,
                       {target, n_tokens, operand.rows.rows, quant::kPanelRows}, scratch);
    } else if (cpu::takes_int8(operand.layout->dtype)) {
      int8[int8_count++] = {operand.layout, operand.panel, target};
    } else {
      panel_kernels_.float_dot[static_cast<size_t>(operand.layout->dtype)](
          *operand.layout, operand.panel, x.values.data, x.values.row_stride, n_tokens, target);
    }
    target += n_tokens * quant::kPanelRows;
  }
  cpu::panel_products(panel_kernels_, std::span(int8).first(int8_count), x.codes);
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].panel != nullptr && operands[i].scale != 1.0F) {
      const int64_t floats = n_tokens * quant::kPanelRows;
      kernels_.scale(operands[i].scale, floats, out + static_cast<int64_t>(i) * floats);
    }
  }
}

}  // namespace sluice::offload
