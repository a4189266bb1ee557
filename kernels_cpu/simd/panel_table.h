// The panel kernels of one instruction set from the templates over its lane vocabulary V.
#pragma once

#include "kernels_cpu/simd/panel_dot.h"
#include "kernels_cpu/simd/panel_float.h"
#include "kernels_cpu/simd/panel_quantize.h"

namespace sluice::cpu {
namespace {

template <class V>
constexpr PanelKernels make_panel_kernels(Isa isa) {
  using quant::DType;
  PanelKernels table{};
  const auto dot = [&table](DType dtype, PanelKernels::DotFn fn) {
    table.dot[static_cast<size_t>(dtype)] = fn;
  };
  const auto float_dot = [&table](DType dtype, PanelKernels::FloatDotFn fn) {
    table.float_dot[static_cast<size_t>(dtype)] = fn;
  };
  table.isa = isa;
  table.quantize = quantize<V>;
  dot(DType::kQ8_0, panel_dot<V, PanelQ8_0>);
  dot(DType::kQ4_0, panel_dot<V, PanelQ4_0>);
  dot(DType::kQ5_0, panel_dot<V, PanelQ5_0>);
  dot(DType::kMXFP4, panel_dot<V, PanelMXFP4>);
  dot(DType::kNVFP4, panel_dot<V, PanelNVFP4>);
  dot(DType::kQ4_K, panel_dot<V, PanelQ4_K>);
  dot(DType::kQ5_K, panel_dot<V, PanelQ5_K>);
  dot(DType::kQ6_K, panel_dot<V, PanelQ6_K>);
  float_dot(DType::kF32, panel_float_dot<V, PanelF32>);
  float_dot(DType::kF16, panel_float_dot<V, PanelF16>);
  float_dot(DType::kBF16, panel_float_dot<V, PanelBF16>);
  return table;
}

/// `table` with products of two panels at a time, for vocabularies that have them.
template <class V>
constexpr PanelKernels with_pairs(PanelKernels table) {
  using quant::DType;
  const auto dot = [&table](DType dtype, PanelKernels::PairDotFn fn) {
    table.pair_dot[static_cast<size_t>(dtype)] = fn;
  };
  dot(DType::kQ8_0, panel_pair_dot<V, PanelQ8_0>);
  dot(DType::kQ4_0, panel_pair_dot<V, PanelQ4_0>);
  dot(DType::kQ5_0, panel_pair_dot<V, PanelQ5_0>);
  dot(DType::kMXFP4, panel_pair_dot<V, PanelMXFP4>);
  dot(DType::kNVFP4, panel_pair_dot<V, PanelNVFP4>);
  dot(DType::kQ4_K, panel_pair_dot<V, PanelQ4_K>);
  dot(DType::kQ5_K, panel_pair_dot<V, PanelQ5_K>);
  dot(DType::kQ6_K, panel_pair_dot<V, PanelQ6_K>);
  return table;
}

}  // namespace
}  // namespace sluice::cpu
