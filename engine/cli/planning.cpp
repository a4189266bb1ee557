#include "engine/cli/planning.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "engine/cli/byte_size.h"
#include "engine/cli/choices.h"
#include "engine/cli/whole_number.h"
#include "engine/plan_input.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/presets.h"
#include "engine/synth/recipe.h"
#include "quant/base/error.h"
#include "quant/gguf_reader.h"

namespace sluice::cli {
namespace {

constexpr int64_t kPrompts[] = {512, 4096, 16384};

PlannedModel describe_spec(const synth::ModelSpec& spec, std::string title) {
  ModelConfig config = synth::config_of(spec);
  std::vector<quant::Tensor> tensors = synth::plan_tensors(spec, config).tensors;
  return {std::move(title), synth::to_text(spec), std::move(config), std::move(tensors)};
}

quant::DType generated_type(const char* flag, const std::string& name) {
  const std::optional<quant::DType> type = quant::dtype_from_name(name);
  if (!type.has_value() || !synth::can_generate(*type)) {
    throw Error(flag, "one of " + synth::generated_type_names(), name);
  }
  return *type;
}

PlannedModel describe_preset(const PlannedModelOptions& options) {
  const std::optional<synth::Preset> preset = synth::preset_from_name(options.preset);
  if (!preset.has_value()) {
    throw Error("--model-preset", fmt::format("one of {}", fmt::join(synth::preset_names(), ", ")),
                options.preset);
  }
  const synth::LayerCounts layers = synth::preset_layers(*preset);
  return describe_spec({.preset = *preset,
                        .dense_layers = layers.dense,
                        .moe_layers = layers.moe,
                        .type = generated_type("--type", options.type),
                        .dense_type = generated_type("--dense-type", options.dense_type)},
                       fmt::format("{}, {} layers, experts {}, all else {}", options.preset,
                                   layers.dense + layers.moe, options.type, options.dense_type));
}

PlannedModel describe_file(const std::filesystem::path& path) {
  const quant::GgufFile file = quant::GgufFile::open(path);
  ModelConfig config = config_from_gguf(file.metadata());
  std::vector<quant::Tensor> tensors = file.tensors();
  for (quant::Tensor& tensor : tensors) {
    tensor.bytes = {};  // the file is closed again
  }
  std::string title = fmt::format("{} ({})", path.string(), config.name);
  return {std::move(title), path.string(), std::move(config), std::move(tensors)};
}

int64_t bytes_of(const std::vector<quant::Tensor>& tensors) {
  int64_t bytes = 0;
  for (const quant::Tensor& tensor : tensors) {
    bytes += tensor.data_bytes();
  }
  return bytes;
}

std::vector<offload::ExpertWish> expert_places(const PlacementOptions& placement, const PlannedModel& model) {
  if (!placement.places_experts()) {
    return {};
  }
  std::vector<offload::ExpertWish> places(static_cast<size_t>(model.config.layers),
                                          offload::ExpertWish::kRam);
  for (const int64_t layer : placement.gpu_expert_layers(model.config, model.tensors)) {
    places[static_cast<size_t>(layer)] = offload::ExpertWish::kGpu;
  }
  return places;
}

}  // namespace

void PlannedModelOptions::add_to(CLI::App& app) {
  model.add_to(app);
  app.add_option(
         "--model-preset", preset,
         fmt::format("Plan for a model that is not here, of {}", fmt::join(synth::preset_names(), ", ")))
      ->type_name("NAME")
      ->excludes("--model");
  app.add_option("--type", type,
                 fmt::format("Type of the preset's routed experts, of {} (default q8_0)",
                             synth::generated_type_names()))
      ->type_name("TYPE")
      ->needs("--model-preset");
  app.add_option("--dense-type", dense_type, "Type of its other large matrices (default q8_0)")
      ->type_name("TYPE")
      ->needs("--model-preset");
}

PlannedModel describe_model(const PlannedModelOptions& options) {
  if (!options.preset.empty()) {
    return describe_preset(options);
  }
  if (synth::is_model_spec(options.model.path)) {
    return describe_spec(synth::parse_model_spec(options.model.path), options.model.path);
  }
  return describe_file(options.model.embedded() ? embedded_model_path()
                                                : std::filesystem::path(options.model.path));
}

void PlanningOptions::add_to(CLI::App& app) {
  take_whole_number(
      app.add_option("-c,--ctx-size", context, "Context in tokens; 0 = the model's (default 0)"), 0);
  take_whole_number(
      app.add_option("-b,--batch-size", batch,
                     "Prompt tokens that go through a layer together; 0 = as many as fit, up to "
                     "32768 (default 0)"),
      0);
  take_whole_number(app.add_option("--ubatch-size", micro_batch,
                                   "Also -ub. Tokens that are computed at a time (default 512)"),
                    1);
  take_words(
      app.add_option("--cache-type-k", cache_type,
                     "Also -ctk. Type of the attention cache, latents and the indexer's keys (default bf16)"),
      cache_type_choices());
  take_words(
      app.add_option("--attention", attention, "Sparse attends to what the indexer selects (default sparse)"),
      attention_choices());
  app.add_flag("--exact", exact, "Float32 activations");
  placement.add_to(app);
  take_byte_size(
      app.add_option("--ram-limit", ram_limit, "RAM to plan with, at most (default: what the machine has)"));
}

PlanReport make_report(const PlannedModel& model, const offload::MachineProfile& machine,
                       const PlanningOptions& options) {
  const offload::PlanModel described =
      plan_model(model.config, model.tensors,
                 {.cache_type = options.cache_type,
                  .attention = options.attention,
                  .activations = options.exact ? Activations::kFloat32 : Activations::kInt8},
                 model.source);
  const int64_t layers = options.placement.gpu_layers;
  PlanReport report{.model = model.title,
                    .model_bytes = bytes_of(model.tensors),
                    .machine = machine,
                    .plan = offload::plan(described, machine,
                                          {.context = options.context,
                                           .batch = options.batch,
                                           .micro_batch = options.micro_batch,
                                           .gpu_layers = layers < 0 ? std::nullopt : std::optional(layers),
                                           .experts = expert_places(options.placement, model),
                                           .vram_limit = options.placement.vram_limit,
                                           .ram_limit = options.ram_limit}),
                    .decode = {},
                    .prefill = {}};
  for (const int64_t depth : {int64_t{0}, report.plan.context - 1}) {
    report.decode.push_back(offload::predict_decode(described, machine, report.plan, depth));
  }
  for (const int64_t tokens : kPrompts) {
    if (tokens <= report.plan.context) {
      report.prefill.push_back(offload::predict_prefill(described, machine, report.plan, tokens));
    }
  }
  return report;
}

void require_fit(const PlanReport& report) {
  if (report.plan.fits()) {
    return;
  }
  const offload::Shortfall& first = report.plan.shortfalls.front();
  const std::string remedies = remedies_text(report.plan);
  const std::string help = remedies.empty()
                               ? std::string("no context, -ngl or -ncmoe alone would make it fit")
                               : fmt::format("each of these alone would make it fit: {}", remedies);
  throw Error(first.device,
              fmt::format("{:.2f} GB of memory ({})", static_cast<double>(first.needed) / 1e9, help),
              fmt::format("{:.2f} GB", static_cast<double>(first.available) / 1e9));
}

}  // namespace sluice::cli
