#include "bench/panel_speed.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
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
constexpr double kGemmSeconds = 0.1;
constexpr int64_t kPanelsPerTask = 16;

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
      codes_(kMostTokens * cols),
      products_(static_cast<size_t>(workers.threads() * kPanelsPerTask * quant::kPanelRows * kMostTokens)) {
  const std::vector<std::byte> panel = random_panel(layout_);
  std::byte* const all = arena_.bytes().data();
  workers_.on_all([&](int64_t worker) {  // each thread touches what it will read
    for (int64_t p = panels_ * worker / workers_.threads(); p < panels_ * (worker + 1) / workers_.threads();
         ++p) {
      std::memcpy(all + p * layout_.panel_bytes, panel.data(), panel.size());
    }
  });
}

/// The first tokens as the kernels take them: how far their scales lie apart depends on how many they are.
void PanelSpeed::quantize(int64_t tokens) {
  if (!cpu::takes_int8(layout_.dtype)) {
    return;
  }
  codes_.set_shape(tokens, layout_.cols, cpu::panel_numerics(layout_.dtype));
  for (int64_t t = 0; t < tokens; ++t) {
    codes_.quantize(kernels_, t, 0, layout_.cols, x_.data() + t * layout_.cols);
  }
}

/// One token and the panels of `worker`.
void PanelSpeed::multiply_one(int64_t worker) {
  const auto type = static_cast<size_t>(layout_.dtype);
  std::array<float, quant::kPanelRows> out;
  for (int64_t p = panels_ * worker / workers_.threads(); p < panels_ * (worker + 1) / workers_.threads();
       ++p) {
    const std::byte* panel = arena_.bytes().data() + p * layout_.panel_bytes;
    if (cpu::takes_int8(layout_.dtype)) {
      kernels_.dot[type](layout_, panel, {0, layout_.cols / cpu::kActivationBlock}, codes_.rows(0, 1),
                         out.data());
    } else {
      kernels_.float_dot[type](layout_, panel, x_.data(), layout_.cols, 1, out.data());
    }
  }
}

double PanelSpeed::read_seconds() {
  return seconds_of([&] {
    workers_.on_all([&](int64_t worker) {
      const int64_t begin = panels_ * worker / workers_.threads();
      const int64_t end = panels_ * (worker + 1) / workers_.threads();
      offload::read_through(arena_.bytes().subspan(static_cast<size_t>(begin * layout_.panel_bytes),
                                                   static_cast<size_t>((end - begin) * layout_.panel_bytes)));
    });
  });
}

double PanelSpeed::gemv_seconds() {
  quantize(1);
  return seconds_of([&] { workers_.on_all([&](int64_t worker) { multiply_one(worker); }); });
}

Share PanelSpeed::gemv(int64_t repeats) {
  const auto bytes = static_cast<double>(panels_ * layout_.panel_bytes);
  std::vector<Share> shares;
  for (int64_t i = 0; i < repeats; ++i) {
    shares.push_back({.measured = bytes / gemv_seconds(), .floor = bytes / read_seconds()});
  }
  return middle(std::move(shares));
}

double PanelSpeed::weights_per_second() {
  return static_cast<double>(panels_ * quant::kPanelRows * layout_.cols) / gemv_seconds();
}

Share PanelSpeed::gemm(int64_t tokens, int64_t repeats) {
  quantize(tokens);
  const double ops_per_panel = 2.0 * static_cast<double>(quant::kPanelRows * layout_.cols * tokens);
  std::vector<Share> shares;
  double seconds = 0;
  int64_t passes = 1;
  for (int64_t i = -1; i < repeats; ++i) {  // the first is for the number of passes
    const double peak = i >= 0 ? int8_peak(seconds) : 0;
    seconds = seconds_of([&] {
      for (int64_t pass = 0; pass < passes; ++pass) {
        multiply_all(tokens);
      }
    });
    if (i >= 0) {
      shares.push_back(
          {.measured = ops_per_panel * static_cast<double>(panels_ * passes) / seconds, .floor = peak});
    } else {
      passes = std::max<int64_t>(1, std::llround(kGemmSeconds / seconds));
    }
  }
  return middle(std::move(shares));
}

/// As long and on as many threads as the product, because clocks and neighbours change with both.
double PanelSpeed::int8_peak(double seconds) {
  std::vector<double> ops(static_cast<size_t>(workers_.threads()));
  const double passed = seconds_of([&] {
    workers_.on_all([&](int64_t worker) {
      const auto begin = std::chrono::steady_clock::now();
      do {
        ops[static_cast<size_t>(worker)] += product_loop(kernels_.isa);
      } while (std::chrono::steady_clock::now() - begin < std::chrono::duration<double>(seconds));
    });
  });
  return std::accumulate(ops.begin(), ops.end(), 0.0) / passed;
}

/// All panels with `tokens` tokens, taken by whoever comes, as the engine does.
void PanelSpeed::multiply_all(int64_t tokens) {
  const quant::PanelView all{
      .layout = layout_, .data = arena_.bytes().data(), .rows = panels_ * quant::kPanelRows};
  workers_.for_ranges(panels_, kPanelsPerTask, [&](int64_t begin, int64_t end, int64_t worker) {
    const int64_t rows = (end - begin) * quant::kPanelRows;
    const MatrixView<float> y(products_.data() + worker * kPanelsPerTask * quant::kPanelRows * kMostTokens,
                              tokens, rows);
    cpu::panel_matmul(kernels_, all.panels_from(begin, end - begin), 0, end - begin, codes_.rows(0, tokens),
                      y);
  });
}

}  // namespace sluice::bench
