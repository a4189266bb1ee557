// The panel kernels on AMX tiles: simd/panel_amx.h for many tokens, the AVX-512 VNNI kernels for the rest.
#include "kernels_cpu/simd/panel_amx.h"
#include "kernels_cpu/kernel_tables.h"

namespace sluice::cpu {

PanelKernels with_amx(const PanelKernels& vnni) {
  using quant::DType;
  PanelKernels table = vnni;
  const auto dot = [&table](DType dtype, PanelTiles::DotFn fn) {
    table.tiles.dot[static_cast<size_t>(dtype)] = fn;
  };
  table.isa = Isa::kAmx;
  table.tiles.least_tokens = 24;  // chosen with an earlier tiling; from 64 on tiles won
  table.tiles.begin = load_tile_shapes;
  table.tiles.end = release_tiles;
  table.tiles.pack = pack_amx;
  dot(DType::kQ8_0, panel_dot_amx<PanelQ8_0, DType::kQ8_0>);
  dot(DType::kQ4_0, panel_dot_amx<PanelQ4_0, DType::kQ4_0>);
  dot(DType::kQ5_0, panel_dot_amx<PanelQ5_0, DType::kQ5_0>);
  dot(DType::kMXFP4, panel_dot_amx<PanelMXFP4, DType::kMXFP4>);
  dot(DType::kNVFP4, panel_dot_amx<PanelNVFP4, DType::kNVFP4>);
  dot(DType::kQ4_K, panel_dot_amx<PanelQ4_K, DType::kQ4_K>);
  dot(DType::kQ5_K, panel_dot_amx<PanelQ5_K, DType::kQ5_K>);
  dot(DType::kQ6_K, panel_dot_amx<PanelQ6_K, DType::kQ6_K>);
  return table;
}

}  // namespace sluice::cpu
