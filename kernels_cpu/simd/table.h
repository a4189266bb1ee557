// The table of one instruction set from the templates over its vector vocabulary V.
#pragma once

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/simd/attention.h"
#include "kernels_cpu/simd/axpy.h"
#include "kernels_cpu/simd/dequantize.h"
#include "kernels_cpu/simd/dequantize_k.h"
#include "kernels_cpu/simd/elementwise.h"
#include "kernels_cpu/simd/gemm.h"
#include "kernels_cpu/simd/rotate.h"
#include "kernels_cpu/simd/select.h"

namespace sluice::cpu {
namespace {

template <class V>
constexpr Kernels make_kernels(Isa isa) {
  using quant::DType;
  Kernels table{};
  const auto set = [&table](DType dtype, DequantizeRowFn fn) {
    table.dequantize_row[static_cast<size_t>(dtype)] = fn;
  };
  table.isa = isa;
  set(DType::kF32, dequantize_f32<V>);
  set(DType::kF16, dequantize_halves<V, V::load_f16>);
  set(DType::kBF16, dequantize_halves<V, V::load_bf16>);
  set(DType::kQ8_0, dequantize_q8_0<V>);
  set(DType::kQ4_0, dequantize_q4_0<V>);
  set(DType::kQ5_0, dequantize_q5_0<V>);
  set(DType::kQ4_K, dequantize_q4_k<V>);
  set(DType::kQ5_K, dequantize_q5_k<V>);
  set(DType::kQ6_K, dequantize_q6_k<V>);
  set(DType::kMXFP4, dequantize_mxfp4<V>);
  set(DType::kNVFP4, dequantize_nvfp4<V>);
  table.gemm_nt = gemm_nt<V>;
  table.gemm_nn_add = gemm_nn_add<V>;
  table.gemm_tn_add = gemm_tn_add<V>;
  table.transpose = transpose<V>;
  table.rms_norm = rms_norm<V>;
  table.layer_norm = layer_norm<V>;
  table.swiglu = swiglu<V>;
  table.add_scaled = add_scaled<V>;
  table.scale = scale<V>;
  table.softmax_tile = softmax_tile<V>;
  table.index_reduce = index_reduce<V>;
  table.to_bf16 = to_bf16<V>;
  table.rope_interleaved = rope_interleaved<V>;
  table.rope_half_split = rope_half_split<V>;
  table.order_keys = order_keys<V>;
  table.keys_between = keys_between<V>;
  table.take_largest = take_largest<V>;
  return table;
}

}  // namespace
}  // namespace sluice::cpu
