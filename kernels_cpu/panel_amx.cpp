// The panel kernels on AMX tiles: simd/panel_amx.h for many tokens, the best AVX-512 kernels for the rest.
#include "kernels_cpu/simd/panel_amx.h"
#include "kernels_cpu/kernel_tables.h"

namespace sluice::cpu {

PanelKernels with_amx(const PanelKernels& best) {
  using quant::DType;
  PanelKernels table = best;
  table.isa = Isa::kAmx;
  table.tiles.least_tokens = 24;  // chosen with an earlier tiling; from 64 on tiles won
  table.tiles.begin = load_tile_shapes;
  table.tiles.end = release_tiles;
  table.tiles.pack = pack_amx;
  for_each_int8_format([&table]<class Format, DType kType>() {
    table.tiles.dot[static_cast<size_t>(kType)] = panel_dot_amx<Format, kType>;
  });
  return table;
}

}  // namespace sluice::cpu
