// Finds the generators of the experts' tensors by name.
#include "engine/synth/expert_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "engine/convert/tensor_names.h"

namespace sluice::synth {
namespace {

constexpr size_t kNotThere = static_cast<size_t>(-1);

size_t position_of(const TensorTable& table, const std::string& name) {
  const auto found = std::find_if(table.tensors.begin(), table.tensors.end(),
                                  [&](const quant::Tensor& tensor) { return tensor.name == name; });
  return found == table.tensors.end() ? kNotThere : static_cast<size_t>(found - table.tensors.begin());
}

std::vector<float> scales_of(const TensorTable& table, const std::string& weight, int64_t experts) {
  const size_t at = position_of(table, convert::scale_name(weight));
  if (at == kNotThere) return {};
  std::vector<float> scales(static_cast<size_t>(experts));
  table.generators[at].write(0, std::as_writable_bytes(std::span(scales)));
  return scales;
}

}  // namespace

SyntheticExperts::SyntheticExperts(std::string source, const TensorTable& table, const ModelConfig& config)
    : source_(std::move(source)),
      experts_(config.router.experts),
      layers_(static_cast<size_t>(config.layers)) {
  for (int64_t layer = config.dense_layers; layer < config.layers; ++layer) {
    for (const char* const projection : {"gate", "up", "down"}) {
      const std::string name = fmt::format("blk.{}.ffn_{}_exps.weight", layer, projection);
      const size_t at = position_of(table, name);
      assert(at != kNotThere);  // plan_tensors of the same configuration
      const quant::Tensor& tensor = table.tensors[at];
      layers_[static_cast<size_t>(layer)].push_back({name, tensor.dtype, tensor.ne[1], tensor.ne[0],
                                                     scales_of(table, name, experts_), table.generators[at]});
    }
  }
}

bool SyntheticExperts::makes(std::string_view tensor) const {
  return std::ranges::any_of(layers_, [&](const Layer& parts) {
    return std::ranges::any_of(parts, [&](const Part& part) { return part.name == tensor; });
  });
}

const SyntheticExperts::Part& SyntheticExperts::part_of(int64_t layer, offload::ExpertPart part) const {
  const Layer& parts = layers_[static_cast<size_t>(layer)];
  assert(!parts.empty());  // a dense layer has none
  return parts[static_cast<size_t>(part)];
}

int64_t SyntheticExperts::experts(int64_t layer) const {
  return layers_[static_cast<size_t>(layer)].empty() ? 0 : experts_;
}

offload::ExpertPartShape SyntheticExperts::shape(int64_t layer, offload::ExpertPart part) const {
  const Part& found = part_of(layer, part);
  return {found.dtype, found.rows, found.cols, found.scales};
}

offload::ExpertOrigin SyntheticExperts::origin(int64_t layer, offload::ExpertPart part) const {
  return {.tensor = source_ + ": tensor " + part_of(layer, part).name, .first_row = 0};
}

void SyntheticExperts::read(const offload::ExpertRows& what, std::span<std::byte> bytes) const {
  const Part& part = part_of(what.layer, what.part);
  assert(what.expert >= 0 && what.expert < experts_ && what.first_row + what.rows <= part.rows);
  assert(static_cast<int64_t>(bytes.size()) == what.rows * quant::row_bytes(part.dtype, part.cols));
  part.generator.write(what.expert * part.rows + what.first_row, bytes);
}

}  // namespace sluice::synth
