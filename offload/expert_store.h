// The routed experts in memory: every panel of every expert, in arenas of the NUMA nodes.
//
// A node's arena holds, layer after layer and expert after expert, that node's panels of gate, then of up,
// then of down, without gaps: what one node knows of an expert is one piece of memory.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "offload/arena.h"
#include "offload/expert_weights.h"
#include "offload/load_progress.h"
#include "offload/machine.h"
#include "offload/workers.h"

namespace sluice::offload {

/// A NUMA node that gets a share of every expert.
struct ExpertHome {
  int32_t node_os_index = 0;
  double gb_per_s = 1;  // shares are in proportion to it
};

struct ExpertStoreOptions {
  std::vector<ExpertHome> homes{ExpertHome{}};
  /// How the pages of an arena are bound: kNode to its home; the others suit a single home.
  MemoryPolicy policy = MemoryPolicy::kAnywhere;
  HugePages huge_pages = HugePages::kProbe;
  /// Called from the loading threads, by one at a time, some ten times a second and at the end.
  std::function<void(const LoadProgress&)> progress;
  std::stop_token stop;
  bool check_finite = false;  // infinity or NaN in what is read is an Error that names its place
};

struct ExpertStoreFacts {
  int64_t bytes = 0;  // of the arenas
  double seconds = 0;
  double gb_per_s = 0;      // bytes of the file's per second
  bool huge_pages = false;  // asked for
  std::string not_bound;    // why a node's memory could not be bound to it; else empty
};

class ExpertStore final : public ExpertWeights {
 public:
  /// Reads all experts with all `workers`. Empty when it was stopped. Throws Error when the memory does not
  /// suffice (before anything is read), or the source cannot be read.
  static std::optional<ExpertStore> load(const ExpertSource& source, const ExpertStoreOptions& options,
                                         Workers& workers);
  ExpertStore(ExpertStore&&) noexcept = default;
  ExpertStore& operator=(ExpertStore&&) noexcept = default;

  /// Bytes that the arenas of `homes` homes would take in all.
  static int64_t bytes_needed(const ExpertSource& source, const std::vector<ExpertHome>& homes);

  /// What one node holds of an expert; without a share the views are empty.
  struct Expert {
    quant::PanelView gate;  // [share.rows, d_model]
    quant::PanelView up;    // [share.rows, d_model]
    quant::PanelView down;  // [d_model, share.rows]
  };
  [[nodiscard]] Expert expert(int64_t layer, int64_t expert, int64_t node) const {
    return expert_at(layer, expert, node, piece_at(layer, expert, node));
  }
  /// The same into a copy of its piece(), which may lie in a device's memory.
  [[nodiscard]] Expert expert_at(int64_t layer, int64_t expert, int64_t node, const std::byte* copy) const;

  [[nodiscard]] const ExpertStoreFacts& facts() const { return facts_; }
  /// [nodes]
  [[nodiscard]] std::span<const Arena> arenas() const { return arenas_; }

  [[nodiscard]] int64_t layers() const override { return static_cast<int64_t>(layers_.size()); }
  [[nodiscard]] int64_t nodes() const override { return static_cast<int64_t>(arenas_.size()); }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return at(layer).experts; }
  [[nodiscard]] const ExpertShare& share(int64_t layer, int64_t node) const override {
    return at(layer).nodes[static_cast<size_t>(node)].share;
  }
  [[nodiscard]] float scale(int64_t layer, ExpertPart part, int64_t expert) const override;
  [[nodiscard]] const std::byte* panel(const ExpertPanel& which, std::span<std::byte> scratch) const override;
  [[nodiscard]] quant::WeightView rows(const ExpertPanel& which, std::span<std::byte> scratch) const override;
  [[nodiscard]] std::span<const std::byte> piece(int64_t layer, int64_t expert, int64_t node) const override {
    return {piece_at(layer, expert, node), static_cast<size_t>(share(layer, node).piece_bytes())};
  }
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const override;

 private:
  friend class ExpertLoad;  // expert_load.cpp: fills a store

  struct NodeLayer {
    ExpertShare share;
    std::byte* data = nullptr;  // of expert 0
  };
  struct Layer {
    int64_t experts = 0;
    int64_t d_model = 0;
    std::vector<float> scales[3];  // by ExpertPart: [experts], or empty
    std::vector<NodeLayer> nodes;
  };

  ExpertStore() = default;
  static std::vector<Layer> lay_out(const ExpertSource& source, const std::vector<ExpertHome>& homes);
  [[nodiscard]] const Layer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  [[nodiscard]] std::byte* piece_at(int64_t layer, int64_t expert, int64_t node) const {
    const NodeLayer& held = at(layer).nodes[static_cast<size_t>(node)];
    return held.data + expert * held.share.piece_bytes();
  }
  [[nodiscard]] std::byte* panel_at(const ExpertPanel& which) const;

  std::vector<Layer> layers_;
  std::vector<Arena> arenas_;
  ExpertStoreFacts facts_;
};

}  // namespace sluice::offload
