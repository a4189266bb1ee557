#include "bench/panel_cases.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <vector>

#include "bench/floors.h"
#include "kernels_cpu/kernels_cpu.h"
#include "kernels_cpu/panel_matmul.h"
#include "offload/activation_rows.h"
#include "offload/aligned_vector.h"
#include "quant/block_codec.h"

namespace sluice::bench {
namespace {

using benchmark::Counter;
using benchmark::State;
using quant::DType;

constexpr int64_t kRows = 256;
constexpr int64_t kCols = 7168;

struct PanelCase {
  DType dtype;
  int64_t tokens;
};

std::vector<float> normal(int64_t n) {
  std::mt19937_64 engine(7);  // speed does not depend on the values; runs should not differ
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(n));
  std::ranges::generate(values, [&] { return distribution(engine); });
  return values;
}

/// A matrix of small random numbers as panels; formats without an encoder get codes with finite scales.
offload::AlignedVector<std::byte> panels_of(const quant::PanelLayout& layout) {
  const int64_t row_bytes = quant::row_bytes(layout.dtype, kCols);
  std::vector<std::byte> rows(static_cast<size_t>(quant::kPanelRows * row_bytes), std::byte{0x21});
  if (quant::can_quantize(layout.dtype)) {
    quant::quantize_row(layout.dtype, normal(quant::kPanelRows * kCols), rows);
  }
  offload::AlignedVector<std::byte> panels(
      static_cast<size_t>(kRows / quant::kPanelRows * layout.panel_bytes));
  for (int64_t p = 0; p < kRows / quant::kPanelRows; ++p) {
    quant::pack_panel(layout, {layout.dtype, rows.data(), quant::kPanelRows, kCols, row_bytes, 1.0F},
                      std::span(panels).subspan(static_cast<size_t>(p * layout.panel_bytes),
                                                static_cast<size_t>(layout.panel_bytes)));
  }
  return panels;
}

/// Operations per second of the loop of the products that the kernels use for so many tokens.
double products_per_second(const cpu::PanelKernels& kernels, int64_t tokens) {
  const bool tiles = kernels.isa == cpu::Isa::kAmx && tokens >= kernels.tiles.least_tokens;
  const cpu::Isa isa = kernels.isa == cpu::Isa::kAmx && !tiles ? cpu::Isa::kAvx512Vnni : kernels.isa;
  static std::map<cpu::Isa, double> measured;
  double& best = measured[isa];
  for (int i = 0; best == 0 || i < 200;
       ++i) {  // of some 100 us each; a neighbour on the core slows some down
    const auto begin = std::chrono::steady_clock::now();
    const double operations = product_loop(isa);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, operations / seconds.count());
  }
  return best;
}

void panel(State& state, const PanelCase& c) {
  const cpu::PanelKernels& kernels = cpu::panel_kernels_for(cpu::chosen_isa());
  const bool int8 = cpu::takes_int8(c.dtype);
  const quant::PanelLayout layout = quant::panel_layout(c.dtype, kCols);
  const offload::AlignedVector<std::byte> panels = panels_of(layout);
  const quant::PanelView w{.layout = layout, .data = panels.data(), .rows = kRows};
  const std::vector<float> x = normal(c.tokens * kCols);
  std::vector<float> y(static_cast<size_t>(c.tokens * kRows));
  const MatrixView<float> out(y.data(), c.tokens, kRows);
  offload::Int8Rows codes(int8 ? c.tokens * kCols : 0);
  if (int8) {
    codes.set_shape(c.tokens, kCols, cpu::panel_numerics(c.dtype));
    for (int64_t t = 0; t < c.tokens; ++t) {
      codes.quantize(kernels, t, 0, kCols, x.data() + t * kCols);
    }
  }
  for (auto _ : state) {
    if (int8) {
      cpu::panel_matmul(kernels, w, 0, w.panels(), codes.rows(0, c.tokens), out);
    } else {
      cpu::panel_matmul(kernels, w, 0, w.panels(), MatrixView<const float>(x.data(), c.tokens, kCols), out);
    }
    benchmark::ClobberMemory();
  }
  const auto bytes = static_cast<double>(panels.size());
  const double operations = 2.0 * kRows * kCols * static_cast<double>(c.tokens);
  const double floor = int8 ? std::max(floor_seconds(kernels.isa, panels, bytes, 0.0),
                                       operations / products_per_second(kernels, c.tokens))
                            : floor_seconds(kernels.isa, panels, bytes, operations);
  const auto calls = static_cast<double>(state.iterations());
  state.counters["bytes/s"] = Counter(bytes * calls, Counter::kIsRate);
  state.counters["op/s"] = Counter(operations * calls, Counter::kIsRate);
  // A rate counter divides by the elapsed time, which turns seconds at best into their share.
  state.counters["of_floor"] = Counter(floor * calls, Counter::kIsRate);
}

}  // namespace

void register_panel_cases() {
  for (const auto& info : quant::all_dtypes()) {
    if (!quant::can_dequantize(info.dtype)) {
      continue;
    }
    for (const int64_t tokens : {1, 8, 64, 512}) {
      benchmark::RegisterBenchmark(
          fmt::format("panel/{}/m={}/{}x{}", info.name, tokens, kRows, kCols).c_str(), panel,
          PanelCase{info.dtype, tokens});
    }
  }
}

}  // namespace sluice::bench
