// The routed experts of a synthetic model, generated on demand.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model_config.h"
#include "engine/synth/recipe.h"
#include "offload/expert_source.h"

namespace sluice::synth {

/// Rows equal those of the tensors of a file of the same spec. Owns what it needs.
class SyntheticExperts final : public offload::ExpertSource {
 public:
  /// `source` names the model in errors.
  SyntheticExperts(std::string source, const TensorTable& table, const ModelConfig& config);

  /// Whether it makes the rows of the tensor of this name.
  [[nodiscard]] bool makes(std::string_view tensor) const;

  [[nodiscard]] int64_t layers() const override { return static_cast<int64_t>(layers_.size()); }
  [[nodiscard]] int64_t experts(int64_t layer) const override;
  [[nodiscard]] offload::ExpertPartShape shape(int64_t layer, offload::ExpertPart part) const override;
  [[nodiscard]] offload::ExpertOrigin origin(int64_t layer, offload::ExpertPart part) const override;
  void read(const offload::ExpertRows& what, std::span<std::byte> bytes) const override;

 private:
  struct Part {
    std::string name;  // of the tensor
    quant::DType dtype;
    int64_t rows;
    int64_t cols;
    std::vector<float> scales;  // empty unless NVFP4
    RowGenerator generator;
  };
  /// Gate, up, down; empty for a dense layer.
  using Layer = std::vector<Part>;

  [[nodiscard]] const Part& part_of(int64_t layer, offload::ExpertPart part) const;

  std::string source_;
  int64_t experts_;
  std::vector<Layer> layers_;
};

}  // namespace sluice::synth
