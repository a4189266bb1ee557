// The weights of the routed experts as the team computes from them: panels, divided among NUMA nodes. Where
// they lie is the implementation's business: in memory of their own (expert_store.h) or in mapped model files
// (mapped_experts.h).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "offload/expert_source.h"
#include "offload/expert_split.h"
#include "quant/panel.h"
#include "quant/tensor.h"

namespace sluice::offload {

/// One node's share of every expert of a layer.
struct ExpertShare {
  RowRange rows;            // of d_expert: rows of gate and up, columns of down
  quant::PanelLayout gate;  // [rows, d_model]
  quant::PanelLayout up;    // [rows, d_model]
  quant::PanelLayout down;  // [d_model, rows]
  int64_t gate_panels = 0;  // and as many of up
  int64_t down_panels = 0;

  [[nodiscard]] const quant::PanelLayout& layout(ExpertPart part) const {
    return part == ExpertPart::kGate ? gate : part == ExpertPart::kUp ? up : down;
  }
  [[nodiscard]] int64_t panels(ExpertPart part) const {
    return part == ExpertPart::kDown ? down_panels : gate_panels;
  }
  /// Where a part's panels begin in an expert's piece: gate's, then up's, then down's, without gaps.
  /// Multiples of 64.
  [[nodiscard]] int64_t offset(ExpertPart part) const {
    const int64_t up_at = gate_panels * gate.panel_bytes;
    return part == ExpertPart::kGate ? 0
           : part == ExpertPart::kUp ? up_at
                                     : up_at + gate_panels * up.panel_bytes;
  }
  /// Of one expert; 0 for a node without a share.
  [[nodiscard]] int64_t piece_bytes() const {
    return offset(ExpertPart::kDown) + down_panels * down.panel_bytes;
  }
  /// Bytes of the largest panel.
  [[nodiscard]] int64_t largest_panel() const {
    return std::max({gate.panel_bytes, up.panel_bytes, down.panel_bytes});
  }
};

/// Sixteen rows of one matrix of one expert: of gate and up [16 panel, 16 panel + 16) of the node's rows, of
/// down as many of d_model.
struct ExpertPanel {
  int64_t layer = 0;
  ExpertPart part = ExpertPart::kGate;
  int64_t expert = 0;
  int64_t node = 0;
  int64_t panel = 0;
};

/// All calls but construction may come from several threads at once.
class ExpertWeights {
 public:
  ExpertWeights() = default;
  ExpertWeights(ExpertWeights&&) = default;
  ExpertWeights& operator=(ExpertWeights&&) = default;
  virtual ~ExpertWeights() = default;

  [[nodiscard]] virtual int64_t layers() const = 0;
  [[nodiscard]] virtual int64_t nodes() const = 0;
  /// 0 for a dense layer.
  [[nodiscard]] virtual int64_t experts(int64_t layer) const = 0;
  [[nodiscard]] virtual const ExpertShare& share(int64_t layer, int64_t node) const = 0;
  /// Second-level scale of NVFP4: multiplies the product. 1 without one.
  [[nodiscard]] virtual float scale(int64_t layer, ExpertPart part, int64_t expert) const = 0;

  /// The panel, 64-byte aligned: where it lies, or made in `scratch`, which has at least largest_panel()
  /// bytes and is 64-byte aligned.
  [[nodiscard]] virtual const std::byte* panel(const ExpertPanel& which,
                                               std::span<std::byte> scratch) const = 0;
  /// The same rows (fewer than sixteen in a last panel) as GGUF blocks, with their scale.
  [[nodiscard]] virtual quant::WeightView rows(const ExpertPanel& which,
                                               std::span<std::byte> scratch) const = 0;

  /// What the node has of an expert, where it lies: share().piece_bytes() bytes, 64-byte aligned, as
  /// ExpertShare::offset says. The pieces of experts e and e + 1 follow each other without a gap, so that
  /// several are one copy. Empty where panels are made when they are asked for, and for a node without a
  /// share.
  [[nodiscard]] virtual std::span<const std::byte> piece(int64_t layer, int64_t expert,
                                                         int64_t node) const = 0;
  /// The memory that all pieces lie in, for page-locking: at most one span per node, from a page's start on.
  /// It stays where it is while this lives. Empty where panels are made when they are asked for.
  [[nodiscard]] virtual std::vector<std::span<const std::byte>> memory() const = 0;
};

}  // namespace sluice::offload
