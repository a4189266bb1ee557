#include "bench/panel_speed.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "bench/floors.h"
#include "bench/timing.h"
#include "kernels_cpu/panel_matmul.h"
#include "offload/read_loop.h"
#include "quant/block_codec.h"

namespace sluice::bench {
namespace {

constexpr int64_t kMostTokens = 512;
constexpr int64_t kFloorLoops = 800;  // of some 100 us each

std::vector<float> normal(int64_t n) {
  std::mt19937_64 engine(7);
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(n));
  std::ranges::generate(values, [&] { return distribution(engine); });
  return values;
}

/// One panel of random weights; types without an encoder get codes with finite scales.
std::vector<std::byte> random_panel(const quant::PanelLayout& layout) {
  const int64_t row_bytes = quant::row_bytes(layout.dtype, layout.cols);
  std::vector<std::byte> rows(static_cast<size_t>(quant::kPanelRows * row_bytes), std::byte{0x21});
  if (quant::can_quantize(layout.dtype)) {
    quant::quantize_row(layout.dtype, normal(quant::kPanelRows * layout.cols), rows);
  }
  std::vector<std::byte> panel(static_cast<size_t>(layout.panel_bytes));
  quant::pack_panel(layout, {layout.dtype, rows.data(), quant::kPanelRows, layout.cols, row_bytes, 1.0F},
                    panel);
  return panel;
}

}  // namespace

PanelSpeed::PanelSpeed(quant::DType dtype, int64_t cols, int64_t bytes, offload::Workers& workers,
                       cpu::Isa isa)
    : workers_(workers),
      kernels_(cpu::panel_kernels_for(isa)),
      layout_(quant::panel_layout(dtype, cols)),
      arena_(bytes / layout_.panel_bytes * layout_.panel_bytes, {.purpose = "benchmark"}),
      panels_(bytes / layout_.panel_bytes),
      x_(normal(kMostTokens * cols)),
      codes_(kMostTokens * cols) {
  const std::vector<std::byte> panel = random_panel(layout_);
  std::byte* const all = arena_.bytes().data();
  workers_.on_all([&](int64_t worker) {  // each thread touches what it will read
    for (int64_t p = panels_ * worker / workers_.threads(); p < panels_ * (worker + 1) / workers_.threads();
         ++p) {
      std::memcpy(all + p * layout_.panel_bytes, panel.data(), panel.size());
    }
  });
  if (cpu::takes_int8(dtype)) {
    codes_.set_shape(kMostTokens, cols, cpu::panel_numerics(dtype));
    for (int64_t t = 0; t < kMostTokens; ++t) {
      codes_.quantize(kernels_, t, 0, cols, x_.data() + t * cols);
    }
  }
}

void PanelSpeed::multiply(int64_t worker, int64_t panels, int64_t tokens) {
  const int64_t begin = panels * worker / workers_.threads();
  const int64_t end = panels * (worker + 1) / workers_.threads();
  const quant::PanelView all{
      .layout = layout_, .data = arena_.bytes().data(), .rows = panels * quant::kPanelRows};
  std::vector<float> y(static_cast<size_t>(tokens * (end - begin) * quant::kPanelRows));
  const MatrixView<float> out(y.data(), tokens, (end - begin) * quant::kPanelRows);
  const quant::PanelView mine = all.panels_from(begin, end - begin);
  if (cpu::takes_int8(layout_.dtype)) {
    cpu::panel_matmul(kernels_, mine, 0, end - begin, codes_.rows(0, tokens), out);
  } else {
    cpu::panel_matmul(kernels_, mine, 0, end - begin, {x_.data(), tokens, layout_.cols}, out);
  }
}

Share PanelSpeed::gemv(int64_t repeats) {
  std::vector<double> read;
  std::vector<double> product;
  for (int64_t i = 0; i < repeats; ++i) {
    read.push_back(seconds_of([&] {
      workers_.on_all([&](int64_t worker) {
        const int64_t begin = panels_ * worker / workers_.threads();
        const int64_t end = panels_ * (worker + 1) / workers_.threads();
        offload::read_through(
            arena_.bytes().subspan(static_cast<size_t>(begin * layout_.panel_bytes),
                                   static_cast<size_t>((end - begin) * layout_.panel_bytes)));
      });
    }));
    product.push_back(
        seconds_of([&] { workers_.on_all([&](int64_t worker) { multiply(worker, panels_, 1); }); }));
  }
  const auto bytes = static_cast<double>(panels_ * layout_.panel_bytes);
  return {.measured = bytes / median(product), .floor = bytes / median(read)};
}

Share PanelSpeed::gemm(int64_t tokens, int64_t repeats) {
  // About 0.1 s at 200 Gop/s a thread.
  const int64_t ops_per_panel = 2 * quant::kPanelRows * layout_.cols * tokens;
  const int64_t panels = std::clamp<int64_t>(int64_t{20'000'000'000} * workers_.threads() / ops_per_panel,
                                             workers_.threads(), panels_);
  std::vector<double> product;
  std::vector<double> peak;
  for (int64_t i = 0; i < repeats; ++i) {
    // As long and on as many threads as the product, because clocks and neighbours change with both.
    std::vector<double> ops(static_cast<size_t>(workers_.threads()));
    const double seconds = seconds_of([&] {
      workers_.on_all([&](int64_t worker) {
        for (int64_t loop = 0; loop < kFloorLoops; ++loop) {
          ops[static_cast<size_t>(worker)] += int8_loop(kernels_.isa);
        }
      });
    });
    peak.push_back(std::accumulate(ops.begin(), ops.end(), 0.0) / seconds);
    product.push_back(
        seconds_of([&] { workers_.on_all([&](int64_t worker) { multiply(worker, panels, tokens); }); }));
  }
  return {.measured = static_cast<double>(ops_per_panel * panels) / median(product), .floor = median(peak)};
}

}  // namespace sluice::bench
