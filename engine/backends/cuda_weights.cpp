#include "engine/backends/cuda_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "engine/backends/cuda_panel_copier.h"
#include "kernels_cuda/base/check.h"

namespace sluice {
namespace {

using quant::PanelView;
using quant::WeightView;

PanelJob job_of(const WeightView& from, const PanelView& to) {
  return {[from](int64_t first, int64_t count, offload::ReadBuffer&) { return from.rows_from(first, count); },
          to};
}

struct VectorJob {
  std::span<const float> from;
  float* to;
};

/// Gives every weight its place, and remembers what has to be copied there.
class Placer {
 public:
  explicit Placer(DeviceLayout& arena) : arena_(arena) {}

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
    matrices_.push_back(job_of(w, view));
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
      matrices_.push_back(job_of(heads[static_cast<size_t>(h)], one));
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

  [[nodiscard]] const std::vector<PanelJob>& matrices() const { return matrices_; }
  [[nodiscard]] const std::vector<VectorJob>& vectors() const { return vectors_; }

 private:
  DeviceLayout& arena_;
  std::vector<PanelJob> matrices_;
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

CudaModel place_model(const ModelWeights& weights, const ModelPart& part, Placer& placer) {
  CudaModel placed;
  if (part.embedding) {
    placed.token_embedding = placer.matrix(weights.token_embedding);
  }
  placed.layers.resize(weights.layers.size());
  for (int64_t l = part.layers.begin; l < part.layers.end; ++l) {
    placed.layers[static_cast<size_t>(l)] = place_layer(weights.layers[static_cast<size_t>(l)], placer);
  }
  if (part.head) {
    placed.output_norm = placer.vector(weights.output_norm);
    const bool tied = part.embedding && weights.output.data == weights.token_embedding.data;
    placed.output = tied ? placed.token_embedding : placer.matrix(weights.output);
  }
  return placed;
}

}  // namespace

CudaWeights::CudaWeights(const Model& model, const ModelPart& part, const std::vector<int64_t>& expert_layers,
                         const std::string& gpu_name, offload::Workers& workers, const std::stop_token& stop)
    : arena_(bytes_needed(model, part)), experts_(model, expert_layers, workers, stop) {
  Placer placer(arena_);
  model_ = place_model(model.weights(), part, placer);
  int64_t largest_panel = 0;
  for (const PanelJob& job : placer.matrices()) {
    largest_panel = std::max(largest_panel, job.to.layout.panel_bytes);
  }
  PanelCopier copier(workers, stop, largest_panel);
  for (const PanelJob& job : placer.matrices()) {
    copier.copy(job);
  }
  for (const VectorJob& job : placer.vectors()) {
    cuda::copy_to_gpu(job.to, std::as_bytes(job.from), "copying weights to the GPU");
  }
  copier.finish();
  description_ = fmt::format("{} with {:.1f} GB of weights", gpu_name,
                             static_cast<double>(arena_.taken() + experts_.bytes()) / 1e9);
  if (!expert_layers.empty()) {
    description_ += fmt::format(" and the experts of {} layer{}", expert_layers.size(),
                                expert_layers.size() == 1 ? "" : "s");
  }
}

int64_t CudaWeights::bytes_needed(const Model& model, const ModelPart& part) {
  DeviceLayout counted;
  Placer placer(counted);
  static_cast<void>(place_model(model.weights(), part, placer));
  return counted.taken();
}

}  // namespace sluice
