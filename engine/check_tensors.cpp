// A task is some rows of one tensor.
#include "engine/check_tensors.h"

#include <algorithm>
#include <set>
#include <string>

#include "engine/load_stopped.h"
#include "quant/block_codec.h"
#include "quant/finite.h"

namespace sluice {
namespace {

constexpr int64_t kTaskBytes = 1 << 20;  // some hundred microseconds

// Where the routed experts' tensors begin.
std::set<const std::byte*> expert_tensors(const ModelWeights& weights) {
  std::set<const std::byte*> tensors;
  for (const LayerWeights& layer : weights.layers) {
    tensors.insert({layer.experts.gate.all.data, layer.experts.up.all.data, layer.experts.down.all.data});
  }
  return tensors;
}

void check(const std::string& file, const quant::Tensor& tensor, offload::Workers& workers,
           const std::stop_token& stop) {
  const std::string subject = file + ": tensor " + tensor.name;
  const quant::WeightView all = tensor.matrix();
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / all.row_bytes);
  workers.for_ranges(all.rows, grain, [&](int64_t begin, int64_t end, int64_t) {
    throw_if_stopped(stop);
    for (int64_t row = begin; row < end; ++row) {
      quant::require_finite(subject, all.dtype, all.cols, {all.row(row), static_cast<size_t>(all.row_bytes)},
                            {.row = row % tensor.ne[1], .slice = row / tensor.ne[1]});
    }
  });
}

}  // namespace

void check_tensors(const Model& model, TensorsToCheck which, offload::Workers& workers,
                   const std::stop_token& stop) {
  const std::set<const std::byte*> left_out = which == TensorsToCheck::kAllButExperts
                                                  ? expert_tensors(model.weights())
                                                  : std::set<const std::byte*>();
  for (const quant::Tensor& tensor : model.file().tensors()) {
    // A file may hold what is no weight, such as indices.
    if (!tensor.bytes.empty() && quant::can_dequantize(tensor.dtype) &&
        !left_out.contains(tensor.bytes.data())) {
      check(model.file().path_of(tensor).string(), tensor, workers, stop);
    }
  }
}

}  // namespace sluice
