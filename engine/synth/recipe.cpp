// The converter's table of tensors, each with a distribution.
#include "engine/synth/recipe.h"

#include <cmath>
#include <string_view>

#include "engine/convert/output_plan.h"
#include "engine/convert/tensor_names.h"
#include "engine/convert/type_choice.h"
#include "engine/synth/tokenizer.h"

namespace sluice::synth {
namespace {

using quant::DType;
using quant::Tensor;

constexpr Distribution kNormGain{.mean = 1.0F, .deviation = 0.1F};
constexpr Distribution kNormBias{.mean = 0.0F, .deviation = 0.1F};
// A tenth of what a router's product with a normed row deviates by: it shifts the choice, and decides
// nothing.
constexpr Distribution kRouterBias{.mean = 0.0F, .deviation = 0.02F};
// Of NVFP4 blocks that a second-level scale follows: block scales are then about 137, in the middle of e4m3's
// normal range as in converted files.
constexpr float kNvfp4BlockDeviation = 400.0F;
constexpr float kScaleSpread = 0.05F;  // of second-level scales, relative

bool is_expert(std::string_view name) {
  return name.ends_with("_exps.weight");
}

Distribution distribution_of(const Tensor& tensor) {
  if (tensor.name.ends_with("norm.weight")) return kNormGain;
  if (tensor.name.ends_with("norm.bias")) return kNormBias;
  if (tensor.name.ends_with(".bias")) return kRouterBias;
  return {.mean = 0.0F, .deviation = 1.0F / std::sqrt(static_cast<float>(tensor.ne[0]))};
}

void add(TensorTable& table, Tensor tensor, const Distribution& distribution, uint64_t seed) {
  table.generators.emplace_back(tensor, distribution, seed);
  table.tensors.push_back(std::move(tensor));
}

}  // namespace

int64_t TensorTable::parameters() const {
  int64_t total = 0;
  for (const Tensor& tensor : tensors) total += tensor.elements();
  return total;
}

int64_t TensorTable::bytes() const {
  int64_t total = 0;
  for (const Tensor& tensor : tensors) total += tensor.data_bytes();
  return total;
}

TensorTable plan_tensors(const ModelSpec& spec, const ModelConfig& config) {
  ConvertOptions experts;
  experts.dtype = spec.type;
  ConvertOptions others;
  others.dtype = spec.dense_type;
  convert::TypeChoice expert_types(experts);
  convert::TypeChoice other_types(others);
  TensorTable table;
  for (const convert::TensorPlan& plan : convert::plan_tensors(config)) {
    convert::TypeChoice& types = is_expert(plan.name) ? expert_types : other_types;
    const DType dtype =
        types.choose(plan.name, static_cast<int>(plan.ne.size()), plan.ne.front(), table.fallbacks);
    Tensor tensor = convert::declare_tensor(plan.name, dtype, plan.ne);
    const Distribution distribution = distribution_of(tensor);
    if (dtype != DType::kNVFP4 || !convert::has_second_scale(tensor.name)) {
      add(table, std::move(tensor), distribution, spec.seed);
      continue;
    }
    const float scale = distribution.deviation / kNvfp4BlockDeviation;
    Tensor scales = convert::declare_scale(tensor);
    add(table, std::move(tensor), {.mean = 0.0F, .deviation = kNvfp4BlockDeviation}, spec.seed);
    add(table, std::move(scales), {.mean = scale, .deviation = kScaleSpread * scale}, spec.seed);
  }
  return table;
}

quant::GgufMetadata make_metadata(const ModelSpec& spec, const ModelConfig& config, int64_t parameters) {
  quant::GgufMetadata metadata(to_text(spec));
  config_to_gguf(config, {convert::file_type_of(spec.type), convert::size_label(parameters)}, metadata);
  metadata.set(kSyntheticKey, to_text(spec));
  tokenizer_to_gguf(make_tokenizer(config.vocab_size), metadata);
  return metadata;
}

}  // namespace sluice::synth
