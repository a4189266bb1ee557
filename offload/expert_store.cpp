#include "offload/expert_store.h"

#include <cassert>

namespace sluice::offload {
namespace {

constexpr ExpertPart kParts[] = {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown};

int64_t panels_of(int64_t rows) {
  return (rows + quant::kPanelRows - 1) / quant::kPanelRows;
}

}  // namespace

std::vector<ExpertStore::Layer> ExpertStore::lay_out(const ExpertSource& source,
                                                     const std::vector<ExpertHome>& homes) {
  std::vector<double> rates;
  rates.reserve(homes.size());
  for (const ExpertHome& home : homes) {
    rates.push_back(home.gb_per_s);
  }
  std::vector<Layer> layers(static_cast<size_t>(source.layers()));
  for (int64_t i = 0; i < source.layers(); ++i) {
    Layer& layer = layers[static_cast<size_t>(i)];
    layer.experts = source.experts(i);
    layer.nodes.resize(homes.size());
    if (layer.experts == 0) {
      continue;
    }
    for (const ExpertPart part : kParts) {
      const auto scales = source.shape(i, part).scales;
      layer.scales[static_cast<size_t>(part)].assign(scales.begin(), scales.end());
    }
    const ExpertPartShape gate = source.shape(i, ExpertPart::kGate);
    const ExpertPartShape up = source.shape(i, ExpertPart::kUp);
    const ExpertPartShape down = source.shape(i, ExpertPart::kDown);
    assert(gate.rows == up.rows && gate.rows == down.cols && gate.cols == up.cols && gate.cols == down.rows);
    layer.d_model = gate.cols;
    const std::vector<RowRange> ranges = split_rows(gate.rows, split_unit(down.dtype), rates);
    for (size_t node = 0; node < homes.size(); ++node) {
      layer.nodes[node].share = {.rows = ranges[node],
                                 .gate = quant::panel_layout(gate.dtype, gate.cols),
                                 .up = quant::panel_layout(up.dtype, up.cols),
                                 .down = quant::panel_layout(down.dtype, ranges[node].size()),
                                 .gate_panels = panels_of(ranges[node].size()),
                                 .down_panels = ranges[node].size() == 0 ? 0 : panels_of(down.rows)};
    }
  }
  return layers;
}

int64_t ExpertStore::bytes_needed(const ExpertSource& source, const std::vector<ExpertHome>& homes) {
  int64_t bytes = 0;
  for (const Layer& layer : lay_out(source, homes)) {
    for (const NodeLayer& node : layer.nodes) {
      bytes += layer.experts * node.share.piece_bytes();
    }
  }
  return bytes;
}

std::byte* ExpertStore::panel_at(const ExpertPanel& which) const {
  const ExpertShare& share = this->share(which.layer, which.node);
  return piece_at(which.layer, which.expert, which.node) + share.offset(which.part) +
         which.panel * share.layout(which.part).panel_bytes;
}

ExpertStore::Expert ExpertStore::expert_at(int64_t layer, int64_t expert, int64_t node,
                                           const std::byte* copy) const {
  const ExpertShare& share = this->share(layer, node);
  const auto view = [&](ExpertPart part, int64_t rows) -> quant::PanelView {
    return {.layout = share.layout(part),
            .data = copy + share.offset(part),
            .rows = rows,
            .scale = scale(layer, part, expert)};
  };
  return {.gate = view(ExpertPart::kGate, share.rows.size()),
          .up = view(ExpertPart::kUp, share.rows.size()),
          .down = view(ExpertPart::kDown, share.down_panels == 0 ? 0 : at(layer).d_model)};
}

float ExpertStore::scale(int64_t layer, ExpertPart part, int64_t expert) const {
  const std::vector<float>& scales = at(layer).scales[static_cast<size_t>(part)];
  return scales.empty() ? 1.0F : scales[static_cast<size_t>(expert)];
}

std::vector<std::span<const std::byte>> ExpertStore::memory() const {
  std::vector<std::span<const std::byte>> spans;
  for (const Arena& arena : arenas_) {
    if (!arena.bytes().empty()) {
      spans.emplace_back(arena.bytes());
    }
  }
  return spans;
}

const std::byte* ExpertStore::panel(const ExpertPanel& which, std::span<std::byte> /*scratch*/) const {
  return panel_at(which);
}

quant::WeightView ExpertStore::rows(const ExpertPanel& which, std::span<std::byte> scratch) const {
  const ExpertShare& share = this->share(which.layer, which.node);
  const quant::PanelLayout& layout = share.layout(which.part);
  const int64_t all = which.part == ExpertPart::kDown ? at(which.layer).d_model : share.rows.size();
  const int64_t count = std::min(quant::kPanelRows, all - which.panel * quant::kPanelRows);
  const int64_t row_bytes = quant::row_bytes(layout.dtype, layout.cols);
  quant::unpack_panel(layout, {panel_at(which), static_cast<size_t>(layout.panel_bytes)}, count,
                      scratch.first(static_cast<size_t>(count * row_bytes)));
  return {.dtype = layout.dtype,
          .data = scratch.data(),
          .rows = count,
          .cols = layout.cols,
          .row_bytes = row_bytes,
          .scale = scale(which.layer, which.part, which.expert)};
}

}  // namespace sluice::offload
