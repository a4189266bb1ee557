// The product of sixteen rows of an expert's weights with activations, in the arithmetic that was asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels_cpu/kernels_cpu.h"
#include "offload/activation_rows.h"
#include "offload/expert_weights.h"

namespace sluice::offload {

enum class ExpertArithmetic {
  kInt8,     // quantized weights meet int8 activations (kernels_cpu/panel.h), float weights float32 ones
  kFloat32,  // every weight is decoded and meets float32 activations: slower, and as exact as the file
};

class PanelProduct {
 public:
  /// Keeps a reference to `weights`.
  PanelProduct(const ExpertWeights& weights, ExpertArithmetic arithmetic, cpu::Isa isa)
      : weights_(weights),
        arithmetic_(arithmetic),
        kernels_(cpu::kernels_for(isa)),
        panel_kernels_(cpu::panel_kernels_for(isa)) {}

  /// Whether weights of this type want Activations::codes; else Activations::values.
  [[nodiscard]] bool wants_int8(quant::DType dtype) const {
    return arithmetic_ == ExpertArithmetic::kInt8 && cpu::takes_int8(dtype);
  }

  /// Sixteen rows that were looked up, and decoded as far as that is done once for all tokens.
  struct Operand {
    const quant::PanelLayout* layout = nullptr;
    const std::byte* panel = nullptr;  // null when rows are used
    quant::WeightView rows;
    float scale = 1.0F;
  };
  /// `scratch` holds what the operand points to: ExpertShare::largest_panel() bytes, 64-byte aligned.
  [[nodiscard]] Operand fetch(const ExpertPanel& which, std::span<std::byte> scratch) const;

  /// out[i][t][0..16) = operand i's rows times token t, second-level scale included; lanes beyond the
  /// matrix's last row hold anything. At most kMostOperands of equal width, for all of which x is the input.
  /// `out` [operands][n_tokens, 16], `scratch` cpu::matmul_scratch_floats(cols).
  void multiply(std::span<const Operand> operands, const Activations& x, int64_t n_tokens, float* out,
                std::span<float> scratch) const;
  static constexpr size_t kMostOperands = 8;

  [[nodiscard]] const cpu::Kernels& kernels() const { return kernels_; }
  [[nodiscard]] const cpu::PanelKernels& panel_kernels() const { return panel_kernels_; }

 private:
  const ExpertWeights& weights_;
  ExpertArithmetic arithmetic_;
  const cpu::Kernels& kernels_;
  const cpu::PanelKernels& panel_kernels_;
};

}  // namespace sluice::offload
