#include "engine/backends/cuda_block_clock.h"

#include <algorithm>

namespace sluice {

CudaBlockClock::CudaBlockClock(const ModelConfig& config, int64_t first_layer, ClockDetail detail)
    : first_layer_(first_layer),
      first_moe_layer_(std::max(first_layer, config.dense_layers)),
      layers_(config.layers),
      detail_(detail) {
  for (int64_t i = 0; i < layers_ * kBlocks; ++i) {
    marks_.emplace_back(cuda::EventKind::kTiming);
  }
}

const cuda::Event& CudaBlockClock::mark(Block block, int64_t layer) const {
  return marks_[static_cast<size_t>(layer * kBlocks + static_cast<int64_t>(block))];
}

const cuda::Event& CudaBlockClock::begin_of(int64_t layer) const {
  return layer == first_layer_ ? begin_ : mark(Block::kLayer, layer - 1);
}

void CudaBlockClock::begin(cudaStream_t stream) {
  begin_.record(stream);
}

void CudaBlockClock::end_of(Block block, int64_t layer, cudaStream_t stream) {
  const bool ends_a_kind = block == Block::kLayer && (layer == first_moe_layer_ - 1 || layer == layers_ - 1);
  if (ends_a_kind || has_blocks()) {
    mark(block, layer).record(stream);
  }
}

int64_t CudaBlockClock::ns(const cuda::Event& from, const cuda::Event& to) const {
  return static_cast<int64_t>(cuda::elapsed_ms(from, to) * 1e6F);
}

void CudaBlockClock::read_layers(LayerTimes& times) const {
  const cuda::Event& end = mark(Block::kLayer, layers_ - 1);
  end.synchronize();
  const cuda::Event& end_of_dense = begin_of(first_moe_layer_);
  times.dense_ns = first_moe_layer_ == first_layer_ ? 0 : ns(begin_, end_of_dense);
  times.moe_ns = first_moe_layer_ == layers_ ? 0 : ns(end_of_dense, end);
}

void CudaBlockClock::read_blocks(int64_t end, BlockTimes& times) const {
  mark(Block::kLayer, layers_ - 1).synchronize();
  times.attention_ns = times.route_ns = times.shared_ns = times.waiting_ns = 0;
  for (int64_t layer = first_moe_layer_; layer < end; ++layer) {
    times.attention_ns += ns(begin_of(layer), mark(Block::kAttention, layer));
    times.route_ns += ns(mark(Block::kAttention, layer), mark(Block::kRoute, layer));
    times.shared_ns += ns(mark(Block::kRoute, layer), mark(Block::kShared, layer));
    times.waiting_ns += ns(mark(Block::kShared, layer), mark(Block::kLayer, layer));
  }
}

}  // namespace sluice
