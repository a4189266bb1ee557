#include "offload/mapped_experts.h"

namespace sluice::offload {
namespace {

int64_t panels_of(int64_t rows) {
  return (rows + quant::kPanelRows - 1) / quant::kPanelRows;
}

ExpertShare whole(const ExpertLayer& layer) {
  if (layer.experts == 0) {
    return {};
  }
  const auto layout = [](const ExpertMatrix& m) { return quant::panel_layout(m.all.dtype, m.all.cols); };
  return {.rows = {.begin = 0, .end = layer.gate.rows},
          .gate = layout(layer.gate),
          .up = layout(layer.up),
          .down = layout(layer.down),
          .gate_panels = panels_of(layer.gate.rows),
          .down_panels = panels_of(layer.down.rows)};
}

}  // namespace

MappedExperts::MappedExperts(std::span<const ExpertLayer> layers) : layers_(layers.begin(), layers.end()) {
  shares_.reserve(layers_.size());
  for (const ExpertLayer& layer : layers_) {
    shares_.push_back(whole(layer));
  }
}

quant::WeightView MappedExperts::rows(const ExpertPanel& which, std::span<std::byte> /*scratch*/) const {
  const quant::WeightView all = matrix(which.layer, which.part).expert(which.expert);
  const int64_t first = which.panel * quant::kPanelRows;
  return all.rows_from(first, std::min(quant::kPanelRows, all.rows - first));
}

const std::byte* MappedExperts::panel(const ExpertPanel& which, std::span<std::byte> scratch) const {
  const quant::PanelLayout& layout = share(which.layer, 0).layout(which.part);
  quant::pack_panel(layout, rows(which, scratch), scratch.first(static_cast<size_t>(layout.panel_bytes)));
  return scratch.data();
}

}  // namespace sluice::offload
