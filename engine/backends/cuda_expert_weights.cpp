#include "engine/backends/cuda_expert_weights.h"

#include <algorithm>

#include "engine/backends/cuda_panel_copier.h"
#include "kernels_cuda/base/check.h"

namespace sluice {
namespace {

using offload::ExpertPart;
using offload::ExpertPartShape;

const offload::ExpertMatrix& mapped_matrix(const Model& model, int64_t layer, ExpertPart part) {
  const offload::ExpertLayer& experts = model.weights().layers[static_cast<size_t>(layer)].experts;
  return part == ExpertPart::kGate ? experts.gate : part == ExpertPart::kUp ? experts.up : experts.down;
}

ExpertPartShape shape_of(const Model& model, int64_t layer, ExpertPart part) {
  if (model.expert_source() != nullptr) {
    return model.expert_source()->shape(layer, part);
  }
  const offload::ExpertMatrix& m = mapped_matrix(model, layer, part);
  return {.dtype = m.all.dtype, .rows = m.rows, .cols = m.all.cols, .scales = m.scales};
}

/// An expert's rows where they come from: the generator, or the mapped file.
RowsOfMatrix rows_of(const Model& model, int64_t layer, ExpertPart part, int64_t expert) {
  if (const offload::ExpertSource* const source = model.expert_source(); source != nullptr) {
    const ExpertPartShape shape = source->shape(layer, part);
    return [=](int64_t first, int64_t count, offload::ReadBuffer& buffer) {
      const int64_t row_bytes = quant::row_bytes(shape.dtype, shape.cols);
      const std::span<const std::byte> bytes = source->read_into(
          {.layer = layer, .part = part, .expert = expert, .first_row = first, .rows = count}, buffer);
      return quant::WeightView{shape.dtype, bytes.data(), count, shape.cols, row_bytes, 1.0F};
    };
  }
  const quant::WeightView all = mapped_matrix(model, layer, part).expert(expert);
  return [all](int64_t first, int64_t count, offload::ReadBuffer&) { return all.rows_from(first, count); };
}

/// Gives every matrix its place, and remembers what has to be copied there.
class Placer {
 public:
  Placer(const Model& model, DeviceLayout& arena) : model_(model), arena_(arena) {}

  CudaExpertLayer layer(int64_t layer) {
    return {.gate = part(layer, ExpertPart::kGate),
            .up = part(layer, ExpertPart::kUp),
            .down = part(layer, ExpertPart::kDown)};
  }

  void copy(offload::Workers& workers, const std::stop_token& stop) const {
    int64_t largest = 0;
    for (const PanelJob& job : jobs_) {
      largest = std::max(largest, job.to.layout.panel_bytes);
    }
    PanelCopier copier(workers, stop, largest);
    for (const PanelJob& job : jobs_) {
      copier.copy(job);
    }
    for (const auto& [from, to] : scales_) {
      cuda::copy_to_gpu(to, std::as_bytes(from), "copying weights to the GPU");
    }
    copier.finish();
  }

 private:
  cuda::ExpertPanels part(int64_t layer, ExpertPart which) {
    const ExpertPartShape shape = shape_of(model_, layer, which);
    const int64_t experts = model_.config().router.experts;
    quant::PanelView one{.layout = quant::panel_layout(shape.dtype, shape.cols), .rows = shape.rows};
    const int64_t expert_bytes = one.bytes();
    auto* const data = arena_.take<std::byte>(experts * expert_bytes);
    one.data = data;
    cuda::ExpertPanels placed{.first = one, .expert_bytes = expert_bytes, .experts = experts};
    if (!shape.scales.empty()) {
      auto* const scales = arena_.take<float>(experts);
      placed.scales = scales;
      scales_.emplace_back(shape.scales, scales);
    }
    for (int64_t e = 0; data != nullptr && e < experts; ++e) {
      one.data = data + e * expert_bytes;
      jobs_.push_back({rows_of(model_, layer, which, e), one});
    }
    return placed;
  }

  const Model& model_;
  DeviceLayout& arena_;
  std::vector<PanelJob> jobs_;
  std::vector<std::pair<std::span<const float>, float*>> scales_;
};

}  // namespace

CudaExpertWeights::CudaExpertWeights(const Model& model, const std::vector<int64_t>& layers,
                                     offload::Workers& workers, const std::stop_token& stop)
    : arena_(bytes_needed(model, layers)), layers_(layers) {
  Placer placer(model, arena_);
  for (const int64_t layer : layers) {
    experts_.push_back(placer.layer(layer));
  }
  if (!layers.empty()) {
    placer.copy(workers, stop);
  }
}

int64_t CudaExpertWeights::bytes_needed(const Model& model, const std::vector<int64_t>& layers) {
  DeviceLayout counted;
  Placer placer(model, counted);
  for (const int64_t layer : layers) {
    static_cast<void>(placer.layer(layer));
  }
  return counted.taken();
}

const CudaExpertLayer* CudaExpertWeights::layer(int64_t layer) const {
  const auto found = std::ranges::lower_bound(layers_, layer);
  return found == layers_.end() || *found != layer ? nullptr
                                                   : &experts_[static_cast<size_t>(found - layers_.begin())];
}

}  // namespace sluice
