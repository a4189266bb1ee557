// The routed experts where a mapped model file has them: for models that are larger than memory, or used
// once. Panels are made when they are asked for, sixteen rows at a time, so results are the same bits as from
// an ExpertStore.
#pragma once

#include <vector>

#include "offload/expert_layer.h"
#include "offload/expert_weights.h"

namespace sluice::offload {

/// All on one node: pages of a file are where the system put them.
class MappedExperts final : public ExpertWeights {
 public:
  /// Keeps the views; what they point into must outlive it.
  explicit MappedExperts(std::span<const ExpertLayer> layers);

  [[nodiscard]] int64_t layers() const override { return static_cast<int64_t>(layers_.size()); }
  [[nodiscard]] int64_t nodes() const override { return 1; }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return at(layer).experts; }
  [[nodiscard]] const ExpertShare& share(int64_t layer, int64_t /*node*/) const override {
    return shares_[static_cast<size_t>(layer)];
  }
  [[nodiscard]] float scale(int64_t layer, ExpertPart part, int64_t expert) const override {
    return matrix(layer, part).expert(expert).scale;
  }
  [[nodiscard]] const std::byte* panel(const ExpertPanel& which, std::span<std::byte> scratch) const override;
  [[nodiscard]] quant::WeightView rows(const ExpertPanel& which, std::span<std::byte> scratch) const override;
  [[nodiscard]] std::span<const std::byte> piece(int64_t /*layer*/, int64_t /*expert*/,
                                                 int64_t /*node*/) const override {
    return {};
  }
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const override { return {}; }

 private:
  [[nodiscard]] const ExpertLayer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  [[nodiscard]] const ExpertMatrix& matrix(int64_t layer, ExpertPart part) const {
    const ExpertLayer& experts = at(layer);
    return part == ExpertPart::kGate ? experts.gate : part == ExpertPart::kUp ? experts.up : experts.down;
  }

  std::vector<ExpertLayer> layers_;
  std::vector<ExpertShare> shares_;  // [layers]
};

}  // namespace sluice::offload
