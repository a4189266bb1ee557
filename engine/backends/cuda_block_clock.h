// When the blocks of a pass are done on the GPU, by events in its stream or in the graph that is replayed.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model_config.h"
#include "engine/runtime.h"
#include "kernels_cuda/base/stream.h"

namespace sluice {

/// kLayers marks little: where passes begin and end, and where MoE layers begin.
enum class ClockDetail { kLayers, kBlocks };

class CudaBlockClock {
 public:
  /// Of passes through layers first_layer, first_layer + 1, ...
  CudaBlockClock(const ModelConfig& config, int64_t first_layer, ClockDetail detail);

  /// Ends of a layer's blocks.
  enum class Block { kAttention, kRoute, kShared, kLayer };

  void begin(cudaStream_t stream);
  void end_of(Block block, int64_t layer, cudaStream_t stream);

  /// Waits for the last mark of the pass.
  void read_layers(LayerTimes& times) const;
  /// Of layers before `end`. Only with kBlocks.
  void read_blocks(int64_t end, BlockTimes& times) const;
  [[nodiscard]] bool has_blocks() const { return detail_ == ClockDetail::kBlocks; }

 private:
  static constexpr int64_t kBlocks = 4;

  [[nodiscard]] const cuda::Event& mark(Block block, int64_t layer) const;
  [[nodiscard]] int64_t ns(const cuda::Event& from, const cuda::Event& to) const;

  [[nodiscard]] const cuda::Event& begin_of(int64_t layer) const;

  int64_t first_layer_;
  int64_t first_moe_layer_;
  int64_t layers_;
  ClockDetail detail_;
  cuda::Event begin_{cuda::EventKind::kTiming};
  std::vector<cuda::Event> marks_;  // [layers, kBlocks]
};

}  // namespace sluice
