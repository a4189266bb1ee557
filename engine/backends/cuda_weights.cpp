#include "engine/backends/cuda_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "engine/load_stopped.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"

namespace sluice {
namespace {

using quant::PanelView;
using quant::WeightView;

// Panels are made in one of two pieces of page-locked memory while the other one is copied. Chosen: large
// enough for the copy engine's full rate.
constexpr int64_t kStageBytes = int64_t{16} << 20;

struct MatrixJob {
  WeightView from;
  PanelView to;
};
struct VectorJob {
  std::span<const float> from;
  float* to;
};

/// Gives every weight its place, and remembers what has to be copied there.
class Placer {
 public:
  explicit Placer(CudaArena& arena) : arena_(arena) {}

  const float* vector(std::span<const float> values) {
    auto* const to = arena_.take<float>(static_cast<int64_t>(values.size()));
    vectors_.push_back({values, to});
    return to;
  }

  // Layers leave unset what they do not have.
  PanelView matrix(const WeightView& w) {
    if (w.data == nullptr) {
      return {};
    }
    PanelView view{.layout = quant::panel_layout(w.dtype, w.cols), .rows = w.rows, .scale = w.scale};
    view.data = arena_.take<std::byte>(view.bytes());
    matrices_.push_back({w, view});
    return view;
  }

  CudaHeads heads(const std::vector<WeightView>& heads) {
    const WeightView& first = heads.front();
    PanelView one{.layout = quant::panel_layout(first.dtype, first.cols), .rows = first.rows};
    const int64_t bytes = one.bytes();
    const auto count = static_cast<int64_t>(heads.size());
    auto* const data = arena_.take<std::byte>(count * bytes);
    for (int64_t h = 0; h < count; ++h) {
      one.data = data == nullptr ? nullptr : data + h * bytes;
      matrices_.push_back({heads[static_cast<size_t>(h)], one});
    }
    CudaHeads placed{.panels = one, .rows = first.rows};
    placed.panels.data = data;
    placed.panels.rows = count * one.panels() * quant::kPanelRows;
    placed.panels.scale = first.scale;
    return placed;
  }

  CudaFfn ffn(const FfnWeights& weights) {
    return {.gate = matrix(weights.gate), .up = matrix(weights.up), .down = matrix(weights.down)};
  }

  [[nodiscard]] const std::vector<MatrixJob>& matrices() const { return matrices_; }
  [[nodiscard]] const std::vector<VectorJob>& vectors() const { return vectors_; }

 private:
  CudaArena& arena_;
  std::vector<MatrixJob> matrices_;
  std::vector<VectorJob> vectors_;
};

void place_indexer(const IndexerWeights& indexer, Placer& placer, CudaLayer& placed) {
  if (indexer.query.data == nullptr) {
    return;
  }
  placed.index_query = placer.matrix(indexer.query);
  placed.index_key = placer.matrix(indexer.key);
  placed.index_head_weights = placer.matrix(indexer.head_weights);
  placed.index_head_weights.scale *= 1.0F / std::sqrt(static_cast<float>(indexer.query.rows));
  placed.index_norm_gain = placer.vector(indexer.norm_gain);
  placed.index_norm_bias = placer.vector(indexer.norm_bias);
}

CudaLayer place_layer(const LayerWeights& layer, Placer& placer) {
  CudaLayer placed{.attention_norm = placer.vector(layer.attention_norm),
                   .query_a = placer.matrix(layer.query_a),
                   .query_a_norm = placer.vector(layer.query_a_norm),
                   .query_b = placer.matrix(layer.query_b),
                   .kv_a = placer.matrix(layer.kv_a),
                   .kv_a_norm = placer.vector(layer.kv_a_norm),
                   .key_b = placer.heads(layer.key_b),
                   .value_b = placer.heads(layer.value_b),
                   .output = placer.matrix(layer.output),
                   .index_query = {},
                   .index_key = {},
                   .index_head_weights = {},
                   .ffn_norm = placer.vector(layer.ffn_norm),
                   .dense = placer.ffn(layer.dense),
                   .router = placer.matrix(layer.router),
                   .router_bias = layer.router_bias.empty() ? nullptr : placer.vector(layer.router_bias),
                   .shared = placer.ffn(layer.shared)};
  place_indexer(layer.indexer, placer, placed);
  return placed;
}

CudaModel place_model(const ModelWeights& weights, Placer& placer) {
  CudaModel placed;
  placed.token_embedding = placer.matrix(weights.token_embedding);
  for (const LayerWeights& layer : weights.layers) {
    placed.layers.push_back(place_layer(layer, placer));
  }
  placed.output_norm = placer.vector(weights.output_norm);
  const bool tied = weights.output.data == weights.token_embedding.data;
  placed.output = tied ? placed.token_embedding : placer.matrix(weights.output);
  return placed;
}

/// Panels of matrices to the GPU, packed and copied piece by piece.
class PanelCopier {
 public:
  PanelCopier(offload::Workers& workers, const std::stop_token& stop, int64_t largest_panel)
      : workers_(workers), stop_(stop) {
    for (Stage& stage : stages_) {
      stage.memory = cuda::PinnedBuffer<std::byte>(std::max(kStageBytes, largest_panel));
    }
  }

  void copy(const MatrixJob& job) {
    const int64_t panel_bytes = job.to.layout.panel_bytes;
    const int64_t at_once = stages_[0].memory.size() / panel_bytes;
    auto* const to = const_cast<std::byte*>(job.to.data);  // a view for readers, of memory that is ours
    for (int64_t begin = 0; begin < job.to.panels(); begin += at_once) {
      const int64_t count = std::min(at_once, job.to.panels() - begin);
      Stage& stage = stages_[static_cast<size_t>(next_++ % kStages)];
      stage.copied.synchronize();
      pack(job, begin, count, stage.memory.data());
      cuda::check(
          cudaMemcpyAsync(to + begin * panel_bytes, stage.memory.data(),
                          static_cast<size_t>(count * panel_bytes), cudaMemcpyHostToDevice, stream_.get()),
          "copying weights to the GPU");
      stage.copied.record(stream_.get());
    }
  }

  void finish() const { stream_.synchronize(); }

 private:
  struct Stage {
    cuda::PinnedBuffer<std::byte> memory;
    cuda::Event copied;
  };
  static constexpr int64_t kStages = 2;

  void pack(const MatrixJob& job, int64_t begin, int64_t count, std::byte* out) {
    const int64_t panel_bytes = job.to.layout.panel_bytes;
    workers_.for_ranges(count, 1, [&](int64_t i, int64_t, int64_t) {
      throw_if_stopped(stop_);
      const int64_t row = (begin + i) * quant::kPanelRows;
      quant::pack_panel(job.to.layout,
                        job.from.rows_from(row, std::min(quant::kPanelRows, job.from.rows - row)),
                        {out + i * panel_bytes, static_cast<size_t>(panel_bytes)});
    });
  }

  offload::Workers& workers_;
  const std::stop_token& stop_;
  cuda::Stream stream_;
  std::array<Stage, kStages> stages_;
  int64_t next_ = 0;
};

}  // namespace

CudaWeights::CudaWeights(const Model& model, const std::string& gpu_name, offload::Workers& workers,
                         const std::stop_token& stop)
    : arena_(bytes_needed(model)) {
  Placer placer(arena_);
  model_ = place_model(model.weights(), placer);
  int64_t largest_panel = 0;
  for (const MatrixJob& job : placer.matrices()) {
    largest_panel = std::max(largest_panel, job.to.layout.panel_bytes);
  }
  PanelCopier copier(workers, stop, largest_panel);
  for (const MatrixJob& job : placer.matrices()) {
    copier.copy(job);
  }
  for (const VectorJob& job : placer.vectors()) {
    cuda::check(cudaMemcpy(job.to, job.from.data(), job.from.size_bytes(), cudaMemcpyHostToDevice),
                "copying weights to the GPU");
  }
  copier.finish();
  description_ =
      fmt::format("{} with {:.1f} GB of weights", gpu_name, static_cast<double>(arena_.taken()) / 1e9);
}

int64_t CudaWeights::bytes_needed(const Model& model) {
  CudaArena counted;
  Placer placer(counted);
  static_cast<void>(place_model(model.weights(), placer));
  return counted.taken();
}

}  // namespace sluice
