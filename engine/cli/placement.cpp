#include "engine/cli/placement.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <regex>
#include <string_view>

#include "engine/cli/byte_size.h"
#include "engine/cli/terminal.h"
#include "engine/cli/whole_number.h"
#include "engine/gpu_placement.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr const char* kGroup = "Placement";
constexpr const char* kLayers = "-ngl/--n-gpu-layers";
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

/// What a tensor is of. The embedding is with the first layer, the head behind the last.
struct Owner {
  int64_t layer = 0;
  bool routed_experts = false;
};

/// None for a tensor of an MTP layer, which is not run.
std::optional<Owner> owner_of(const std::string& name, int64_t layers) {
  static const std::regex pattern(R"(blk\.(\d{1,9})\.(ffn_[a-z_]+_exps\.)?.*)");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) {
    return Owner{name.starts_with("token_embd") ? 0 : layers, false};
  }
  const int64_t layer = std::stoll(match[1].str());
  if (layer >= layers) return {};
  return Owner{layer, match[2].matched};
}

/// Throws Error when `match` sends a tensor, which is at `home` without it, to where it cannot be.
void require_possible(const Override& match, const std::string& tensor, const Owner& owner, Place home) {
  if (match.place == home || (match.place == Place::kCpu && owner.routed_experts)) return;
  throw Error(kOverride,
              match.place == Place::kCpu
                  ? std::string("expressions that name routed experts only (ffn_..._exps) for the CPU")
                  : fmt::format("CUDA0 only for layers that {} gives to the GPU", kLayers),
              fmt::format("{}, which matches {}", match.text, tensor));
}

}  // namespace

void PlacementOptions::add_to(CLI::App& app) {
  add_most_to(app);
  take_whole_number(
      app.add_option("--n-cpu-moe", cpu_moe_layers,
                     "Also -ncmoe. Routed experts of the first N layers stay in memory, those of "
                     "the other layers go to the GPU (default: as many layers there as have room)"),
      0)
      ->group(kGroup);
}

void PlacementOptions::add_most_to(CLI::App& app) {
  take_whole_number(
      app.add_option("--n-gpu-layers", gpu_layers,
                     "Also -ngl. The last N layers on the GPU, but routed experts only as far as they have "
                     "room; the output head counts as the last one. 0 = all on the CPU, more than the "
                     "model's layers = all on the GPU (default: that where there is one)"),
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
  take_byte_size(app.add_option("--vram-limit", vram_limit,
                                "GPU memory to use, at most, with what other programs use (default: all)"))
      ->group(kGroup);
}

std::vector<int64_t> PlacementOptions::gpu_expert_layers(const ModelConfig& config,
                                                         std::span<const quant::Tensor> tensors) const {
  const int64_t all = config.layers;
  const int64_t first_gpu = gpu_layers < 0 ? 0 : first_gpu_layer(all, gpu_layers);
  const int64_t kept = cpu_moe ? all : cpu_moe_layers.value_or(all);
  const std::vector<Override> parsed = parse_overrides(overrides);
  std::map<int64_t, Place> places;
  for (const quant::Tensor& tensor : tensors) {
    const std::optional<Owner> owner = owner_of(tensor.name, all);
    if (!owner.has_value()) continue;
    const Place home = owner->layer < first_gpu ? Place::kCpu : Place::kGpu;
    const Override* const match = first_match(parsed, tensor.name);
    if (match != nullptr) require_possible(*match, tensor.name, *owner, home);
    if (!owner->routed_experts) continue;
    const Place otherwise = owner->layer < kept ? Place::kCpu : home;
    const Place place = match != nullptr ? match->place : otherwise;
    if (const auto [known, added] = places.emplace(owner->layer, place); !added && known->second != place) {
      throw Error(kOverride, fmt::format("one place for all routed experts of layer {}", owner->layer),
                  "two");
    }
  }
  std::vector<int64_t> layers;
  for (const auto& [layer, place] : places) {
    if (place == Place::kGpu) layers.push_back(layer);
  }
  return layers;
}

void PlacementOptions::apply_to(RuntimeOptions& options, const Model& model) const {
  const int64_t first_gpu = gpu_layers < 0 ? 0 : first_gpu_layer(model.config().layers, gpu_layers);
  options.gpu_expert_layers = gpu_expert_layers(model.config(), model.file().tensors());
  options.device = gpu_layers == 0 ? Device::kCpu : Device::kGpu;
  if (gpu_layers < 0 && options.gpu_expert_layers.empty()) options.device = Device::kAuto;
  options.first_gpu_layer = options.device == Device::kGpu ? first_gpu : 0;
  options.gpu_memory_limit = vram_limit.value_or(0);
}

void ExpertCacheOption::add_to(CLI::App& app) {
  app.add_option_function<std::string>(
         "--expert-cache",
         [this](const std::string& text) {
           const std::optional<int64_t> parsed = parse_byte_size(text);
           size = text == "off" ? Size::kOff : text == "auto" ? Size::kAuto : Size::kBytes;
           if (size == Size::kBytes && !parsed.has_value()) {
             throw CLI::ValidationError("--expert-cache",
                                        "expected off, auto or a size as 24GB, got " + text);
           }
           bytes = size == Size::kBytes ? *parsed : 0;
         },
         "GPU memory for those experts in RAM that recent tokens chose most: the GPU computes them while the "
         "CPU computes a token's others. auto = what would be filled with whole layers (default off)")
      ->type_name("off|auto|SIZE")
      ->group(kGroup);
}

void require_unplaced(const ExpertCacheOption& cache, bool placed) {
  if (placed && cache.size == ExpertCacheOption::Size::kAuto) {
    throw Error("--expert-cache", "a size, or off, beside -ncmoe, -cmoe and -ot", "auto");
  }
}

void require_gpu(const ExpertCacheOption& cache, bool gpu) {
  if (!gpu && cache.size != ExpertCacheOption::Size::kOff) {
    throw Error("--expert-cache", "a GPU, or off", "the CPU alone");
  }
}

void fill_gpu(RuntimeOptions& options, const Model& model, const ExpertCacheOption& cache, bool placed) {
  using Size = ExpertCacheOption::Size;
  require_unplaced(cache, placed);
  if (cache.size == Size::kBytes) {
    options.expert_cache_bytes = cache.bytes;
  }
  if (cache.size == Size::kBytes || placed) {
    return;
  }
  const bool caches = cache.size == Size::kAuto;
  const std::optional<GpuFilling> filling = gpu_filling_now(model, options);
  require_gpu(cache, filling.has_value());
  if (filling.has_value()) {
    write_all(STDERR_FILENO, (caches ? cache_text(*filling) : filling_text(*filling)) + "\n");
    options = caches ? cached(options, *filling) : filled(options, *filling);
  }
}

}  // namespace sluice::cli
