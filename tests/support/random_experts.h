// Routed experts with random weights in memory: as a source of bytes, as the views of a mapped file, and
// decoded.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/expert_layer.h"
#include "offload/expert_source.h"
#include "support/random_tensors.h"

namespace sluice::testing {

struct RandomExpertShape {
  int64_t experts = 1;
  int64_t d_model = 64;
  int64_t d_expert = 64;
  quant::DType gate = quant::DType::kF32;
  quant::DType up = quant::DType::kF32;
  quant::DType down = quant::DType::kF32;
  bool scaled = false;  // second-level scales
};

/// Every layer but those added with no experts is an MoE layer.
class RandomExperts final : public offload::ExpertSource {
 public:
  void add_dense_layer() { layers_.emplace_back(); }
  /// Sizes must suit the types' blocks.
  void add_layer(const RandomExpertShape& shape, Random& random);

  [[nodiscard]] int64_t layers() const override { return static_cast<int64_t>(layers_.size()); }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return at(layer).experts; }
  [[nodiscard]] offload::ExpertPartShape shape(int64_t layer, offload::ExpertPart part) const override;
  /// Named "layer 3 up".
  [[nodiscard]] offload::ExpertOrigin origin(int64_t layer, offload::ExpertPart part) const override;
  /// How it asks to be read: 0, or as if it waited for a disk.
  int64_t reads_under_way = 0;
  [[nodiscard]] int64_t reads_at_once() const override { return reads_under_way; }
  void read(const offload::ExpertRows& what, std::span<std::byte> bytes) const override;

  /// [layers], valid while this lives and no layer is added.
  [[nodiscard]] std::vector<offload::ExpertLayer> mapped() const;
  /// One expert's matrix as GGUF blocks.
  [[nodiscard]] std::span<const std::byte> bytes(int64_t layer, offload::ExpertPart part,
                                                 int64_t expert) const;
  /// The same, to be changed.
  [[nodiscard]] std::span<std::byte> bytes_of(int64_t layer, offload::ExpertPart part, int64_t expert);
  /// The same decoded, times its second-level scale. [rows, cols]
  [[nodiscard]] std::vector<double> values(int64_t layer, offload::ExpertPart part, int64_t expert) const;

 private:
  struct Matrix {
    quant::DType dtype = quant::DType::kF32;
    int64_t rows = 0;
    int64_t cols = 0;
    std::vector<std::byte> bytes;  // [experts, rows]
    std::vector<float> scales;
  };
  struct Layer {
    int64_t experts = 0;
    Matrix parts[3];
  };
  [[nodiscard]] const Layer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  [[nodiscard]] const Matrix& matrix(int64_t layer, offload::ExpertPart part) const {
    return at(layer).parts[static_cast<size_t>(part)];
  }
  static Matrix make(quant::DType dtype, int64_t experts, int64_t rows, int64_t cols, bool scaled,
                     Random& random);

  std::vector<Layer> layers_;
};

/// A shape for tests of every corner: sizes that suit `gate` (and up) and `down`, from one block on.
RandomExpertShape random_expert_shape(quant::DType gate, quant::DType down, Random& random);

/// All weight types.
std::vector<quant::DType> weight_types();

}  // namespace sluice::testing
