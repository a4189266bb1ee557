#include "engine/cli/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <regex>
#include <string_view>

#include "engine/cli/whole_number.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr const char* kGroup = "Placement";

constexpr const char* kOverride = "-ot/--override-tensor";

enum class Place { kCpu, kGpu };

struct Override {
  std::regex pattern;
  Place place = Place::kCpu;
  std::string text;
};

Override parse_override(const std::string& text) {
  const size_t at = text.rfind('=');
  const std::string place = at == std::string::npos ? "" : text.substr(at + 1);
  if (at == 0 || (place != "CPU" && place != "CUDA0")) {
    throw Error(kOverride, "REGEX=CPU or REGEX=CUDA0", text);
  }
  try {
    return {std::regex(text.substr(0, at)), place == "CPU" ? Place::kCpu : Place::kGpu, text};
  } catch (const std::regex_error& error) {
    throw Error(kOverride, "a regular expression before =", fmt::format("{} ({})", text, error.what()));
  }
}

std::vector<Override> parse_overrides(const std::vector<std::string>& texts) {
  std::vector<Override> overrides;
  for (const std::string& all : texts) {
    // llama.cpp takes several with commas between them.
    for (size_t begin = 0; begin <= all.size();) {
      const size_t end = std::min(all.find(',', begin), all.size());
      overrides.push_back(parse_override(all.substr(begin, end - begin)));
      begin = end + 1;
    }
  }
  return overrides;
}

const Override* first_match(const std::vector<Override>& overrides, const std::string& name) {
  const auto found =
      std::ranges::find_if(overrides, [&](const Override& o) { return std::regex_search(name, o.pattern); });
  return found == overrides.end() ? nullptr : &*found;
}

/// The layer of "blk.7.ffn_up_exps.weight"; none for other tensors.
std::optional<int64_t> layer_of_experts(const std::string& name) {
  static const std::regex pattern(R"(blk\.(\d+)\.ffn_[a-z_]+_exps\..*)");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return {};
  return std::stoll(match[1].str());
}

}  // namespace

void PlacementOptions::add_to(CLI::App& app) {
  add_most_to(app);
  take_whole_number(
      app.add_option("--n-cpu-moe", cpu_moe_layers,
                     "Also -ncmoe. Routed experts of the first N layers stay in memory, those of "
                     "the other layers go to the GPU (default: all stay)"),
      0)
      ->group(kGroup);
}

void PlacementOptions::add_most_to(CLI::App& app) {
  take_whole_number(app.add_option("--n-gpu-layers", gpu_layers,
                                   "Also -ngl. 0 = everything on the CPU, all layers or more = all but the "
                                   "routed experts on the GPU (default: that where there is a GPU)"),
                    0)
      ->group(kGroup);
  app.add_flag("--cpu-moe", cpu_moe, "Also -cmoe. Routed experts of all layers stay in memory")
      ->group(kGroup);
  app.add_option("--override-tensor", overrides,
                 "Also -ot. Routed experts by the names of their tensors, as blk.7.ffn_up_exps.weight: the "
                 "first expression that matches counts; repeatable")
      ->type_name("REGEX=CPU|CUDA0")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->group(kGroup);
}

Device PlacementOptions::device_for(const Model& model) const {
  if (gpu_layers <= 0) {
    return gpu_layers == 0 ? Device::kCpu : Device::kAuto;
  }
  if (gpu_layers < model.config().layers) {
    throw Error("-ngl/--n-gpu-layers",
                fmt::format("0 (CPU) or all of the model's layers, {} or more", model.config().layers),
                fmt::format("{}", gpu_layers));
  }
  return Device::kGpu;
}

std::vector<int64_t> PlacementOptions::gpu_expert_layers(const Model& model) const {
  const ModelConfig& config = model.config();
  const std::vector<Override> parsed = parse_overrides(overrides);
  const auto otherwise = [&](int64_t layer) {
    return cpu_moe || !cpu_moe_layers.has_value() || layer < *cpu_moe_layers ? Place::kCpu : Place::kGpu;
  };
  std::map<int64_t, Place> places;
  for (const quant::Tensor& tensor : model.file().tensors()) {
    const Override* const match = first_match(parsed, tensor.name);
    const std::optional<int64_t> layer = layer_of_experts(tensor.name);
    if (!layer.has_value() || *layer >= config.layers) {
      if (match != nullptr && match->place == Place::kCpu) {
        throw Error(kOverride,
                    "expressions that name routed experts only (ffn_..._exps): the rest is on the GPU",
                    fmt::format("{}, which matches {}", match->text, tensor.name));
      }
      continue;
    }
    const Place place = match != nullptr ? match->place : otherwise(*layer);
    if (const auto [known, added] = places.emplace(*layer, place); !added && known->second != place) {
      throw Error(kOverride, fmt::format("one place for all routed experts of layer {}", *layer), "two");
    }
  }
  std::vector<int64_t> layers;
  for (const auto& [layer, place] : places) {
    if (place == Place::kGpu) layers.push_back(layer);
  }
  return layers;
}

void PlacementOptions::apply_to(RuntimeOptions& options, const Model& model) const {
  options.device = device_for(model);
  if (options.device == Device::kCpu) return;  // as in llama.cpp: nothing is left to be placed
  options.gpu_expert_layers = gpu_expert_layers(model);
  if (!options.gpu_expert_layers.empty()) options.device = Device::kGpu;
}

}  // namespace sluice::cli
