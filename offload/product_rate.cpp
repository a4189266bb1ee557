#include "offload/product_rate.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels_cpu/kernels_cpu.h"
#include "kernels_cpu/panel_matmul.h"
#include "offload/activation_rows.h"
#include "offload/arena.h"
#include "offload/workers.h"
#include "quant/block_codec.h"
#include "quant/panel.h"

namespace sluice::offload {
namespace {

constexpr int64_t kCols = 7168;
constexpr int64_t kTokens = 64;
constexpr int64_t kPanelsPerThread = 64;  // 7 MiB of Q8_0: beyond the L2 of a core, as experts are
constexpr int64_t kGrain = 4;             // panels per task
constexpr double kSeconds = 0.5;

/// Numbers between -1 and 1: the speed depends on no value.
std::vector<float> wave(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    values[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 201 - 100) / 100.0F;
  }
  return values;
}

std::vector<std::byte> one_panel(const quant::PanelLayout& layout) {
  const int64_t row_bytes = quant::row_bytes(layout.dtype, layout.cols);
  std::vector<std::byte> rows(static_cast<size_t>(quant::kPanelRows * row_bytes));
  quant::quantize_row(layout.dtype, wave(quant::kPanelRows * layout.cols), rows);
  std::vector<std::byte> panel(static_cast<size_t>(layout.panel_bytes));
  quant::pack_panel(layout, {layout.dtype, rows.data(), quant::kPanelRows, layout.cols, row_bytes, 1.0F},
                    panel);
  return panel;
}

/// A matrix in panels, written by whoever reads it, and tokens for it.
class Products {
 public:
  Products(Workers& workers, const cpu::PanelKernels& kernels)
      : workers_(workers),
        kernels_(kernels),
        panels_(workers.threads() * kPanelsPerThread),
        arena_(panels_ * layout_.panel_bytes, {.purpose = "measuring products"}),
        codes_(kTokens * kCols),
        out_(static_cast<size_t>(kTokens * panels_ * quant::kPanelRows)) {
    const std::vector<std::byte> panel = one_panel(layout_);
    workers_.for_ranges(panels_, kGrain, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t p = begin; p < end; ++p) {
        std::memcpy(arena_.bytes().data() + p * layout_.panel_bytes, panel.data(), panel.size());
      }
    });
    const std::vector<float> x = wave(kTokens * kCols);
    codes_.set_shape(kTokens, kCols, cpu::panel_numerics(layout_.dtype));
    for (int64_t t = 0; t < kTokens; ++t) {
      codes_.quantize(kernels, t, 0, kCols, x.data() + t * kCols);
    }
  }

  void multiply() {
    const quant::PanelView w{.layout = layout_, .data = arena_.bytes().data(), .rows = rows()};
    const MatrixView<float> y(out_.data(), kTokens, rows());
    workers_.for_ranges(panels_, kGrain, [&](int64_t first, int64_t last, int64_t) {
      cpu::panel_matmul(kernels_, w, first, last, codes_.rows(0, kTokens), y);
    });
  }

  [[nodiscard]] double operations() const { return 2.0 * static_cast<double>(rows() * kCols * kTokens); }

 private:
  [[nodiscard]] int64_t rows() const { return panels_ * quant::kPanelRows; }

  Workers& workers_;
  const cpu::PanelKernels& kernels_;
  quant::PanelLayout layout_ = quant::panel_layout(quant::DType::kQ8_0, kCols);
  int64_t panels_;
  Arena arena_;
  Int8Rows codes_;
  std::vector<float> out_;
};

}  // namespace

double measure_int8_gops(const Machine& machine, cpu::Isa isa, const std::stop_token& stop) {
  Workers workers(place_threads(machine, machine.cores));
  const ThreadBinding binding = workers.bind_caller();
  Products products(workers, cpu::panel_kernels_for(isa));
  double best = 1e9;
  double spent = 0;
  for (int pass = 0; pass < 2 || spent < kSeconds; ++pass) {
    if (stop.stop_requested()) {
      return 0;
    }
    const auto begin = std::chrono::steady_clock::now();
    products.multiply();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
    spent += seconds.count();
  }
  return products.operations() / best / 1e9;
}

}  // namespace sluice::offload
