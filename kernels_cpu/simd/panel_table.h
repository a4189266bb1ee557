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
  const auto float_dot = [&table](DType dtype, PanelKernels::FloatDotFn fn) {
    table.float_dot[static_cast<size_t>(dtype)] = fn;
  };
  table.isa = isa;
  table.quantize = quantize<V>;
  for_each_int8_format([&table]<class Format, DType kType>() {
    table.dot[static_cast<size_t>(kType)] = panel_dot<V, Format>;
  });
  float_dot(DType::kF32, panel_float_dot<V, PanelF32>);
  float_dot(DType::kF16, panel_float_dot<V, PanelF16>);
  float_dot(DType::kBF16, panel_float_dot<V, PanelBF16>);
  return table;
}

/// `table` with products of two panels at a time, for vocabularies that have them.
template <class V>
constexpr PanelKernels with_pairs(PanelKernels table) {
  using quant::DType;
  for_each_int8_format([&table]<class Format, DType kType>() {
    table.pair_dot[static_cast<size_t>(kType)] = panel_pair_dot<V, Format>;
  });
  return table;
}

}  // namespace
}  // namespace sluice::cpu
