#include "engine/backends/panel_weights.h"

#include <algorithm>
#include <vector>

#include "engine/load_stopped.h"

namespace sluice {
namespace {

using quant::WeightView;

void add_ffn(const FfnWeights& ffn, std::vector<WeightView>& matrices) {
  matrices.insert(matrices.end(), {ffn.gate, ffn.up, ffn.down});
}

std::vector<WeightView> shared_matrices(const ModelWeights& weights, const ModelPart& part) {
  std::vector<WeightView> matrices;
  if (part.head) {
    matrices.push_back(weights.output);
  }
  for (int64_t l = part.layers.begin; l < part.layers.end; ++l) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(l)];
    matrices.insert(matrices.end(), {layer.query_a, layer.query_b, layer.kv_a, layer.output, layer.router});
    matrices.insert(matrices.end(), {layer.indexer.query, layer.indexer.key, layer.indexer.head_weights});
    matrices.insert(matrices.end(), layer.key_b.begin(), layer.key_b.end());
    matrices.insert(matrices.end(), layer.value_b.begin(), layer.value_b.end());
    add_ffn(layer.dense, matrices);
    add_ffn(layer.shared, matrices);
  }
  // Layers leave unset what they do not have. F32 is multiplied where it lies.
  std::erase_if(matrices,
                [](const WeightView& w) { return w.data == nullptr || w.dtype == quant::DType::kF32; });
  return matrices;
}

int64_t panel_bytes(const std::vector<WeightView>& matrices) {
  int64_t bytes = 0;
  for (const WeightView& w : matrices) {
    const quant::PanelView view{
        .layout = quant::panel_layout(w.dtype, w.cols), .data = nullptr, .rows = w.rows};
    bytes += view.bytes();
  }
  return bytes;
}

}  // namespace

PanelWeights::PanelWeights(const ModelWeights& weights, const ModelPart& part, offload::Workers& workers,
                           const std::stop_token& stop)
    : arena_(bytes_needed(weights, part),
             {.purpose = "weights shared by all tokens", .huge_pages = offload::HugePages::kOn}) {
  for (const WeightView& w : shared_matrices(weights, part)) {
    const quant::PanelLayout layout = quant::panel_layout(w.dtype, w.cols);
    quant::PanelView view{.layout = layout, .data = nullptr, .rows = w.rows, .scale = w.scale};
    const std::span<std::byte> bytes = arena_.allocate(view.bytes());
    view.data = bytes.data();
    workers.for_ranges(view.panels(), 1, [&](int64_t begin, int64_t end, int64_t) {
      throw_if_stopped(stop);
      for (int64_t p = begin; p < end; ++p) {
        const int64_t row = p * quant::kPanelRows;
        quant::pack_panel(layout, w.rows_from(row, std::min(quant::kPanelRows, w.rows - row)),
                          bytes.subspan(static_cast<size_t>(p * layout.panel_bytes),
                                        static_cast<size_t>(layout.panel_bytes)));
      }
    });
    panels_.emplace(w.data, view);
  }
}

int64_t PanelWeights::bytes_needed(const ModelWeights& weights, const ModelPart& part) {
  return panel_bytes(shared_matrices(weights, part));
}

const quant::PanelView* PanelWeights::find(const WeightView& w) const {
  const auto found = panels_.find(w.data);
  return found == panels_.end() ? nullptr : &found->second;
}

}  // namespace sluice
