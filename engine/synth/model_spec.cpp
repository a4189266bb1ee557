// Key by key.
#include "engine/synth/model_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <set>
#include <utility>

#include "engine/synth/presets.h"
#include "quant/base/error.h"

namespace sluice::synth {
namespace {

using quant::DType;

constexpr std::string_view kPrefix = "synth:";
constexpr std::array kPresets{Preset::kDeepSeekV32, Preset::kTiny};
constexpr std::array kTypes{DType::kBF16, DType::kQ8_0, DType::kNVFP4, DType::kQ4_K};
constexpr std::string_view kKeys = "dense, moe, type, dense_type, seed or experts";
constexpr int64_t kMostLayers = 1024;  // as ModelConfig::check has it, for both kinds together
constexpr int64_t kMostExperts = 4096;

std::string lower_name(DType dtype) {
  std::string name(quant::dtype_info(dtype).name);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

std::string subject(std::string_view text, std::string_view key) {
  return fmt::format("{}: {}", text, key);
}

/// One "key=value" of a spec.
struct Setting {
  std::string_view text;  // of the whole spec
  std::string_view key;
  std::string_view value;

  [[noreturn]] void refuse(std::string_view expected) const {
    throw Error(subject(text, key), expected, value.empty() ? std::string_view("nothing") : value);
  }
};

template <typename T>
T number_of(const Setting& setting) {
  T number{};
  const char* const end = setting.value.data() + setting.value.size();
  const auto [parsed, failure] = std::from_chars(setting.value.data(), end, number);
  if (failure != std::errc() || parsed != end || std::cmp_less(number, 0)) {
    setting.refuse("a whole number from 0");
  }
  return number;
}

DType type_of(const Setting& setting) {
  const std::optional<DType> dtype = quant::dtype_from_name(setting.value);
  if (!dtype || !can_generate(*dtype)) setting.refuse("one of " + generated_type_names());
  return *dtype;
}

void apply(const Setting& setting, ModelSpec& spec) {
  if (setting.key == "dense") {
    spec.dense_layers = number_of<int64_t>(setting);
  } else if (setting.key == "moe") {
    spec.moe_layers = number_of<int64_t>(setting);
  } else if (setting.key == "type") {
    spec.type = type_of(setting);
  } else if (setting.key == "dense_type") {
    spec.dense_type = type_of(setting);
  } else if (setting.key == "seed") {
    spec.seed = number_of<uint64_t>(setting);
  } else if (setting.key == "experts") {
    spec.experts = number_of<int64_t>(setting);
  } else {
    throw Error(setting.text, fmt::format("the keys {}", kKeys), setting.key);
  }
}

std::vector<std::string_view> split_at_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

Preset parse_preset(std::string_view text, std::string_view name) {
  const std::optional<Preset> preset = preset_from_name(name);
  if (!preset) {
    throw Error(subject(text, "preset"), fmt::format("one of {}", fmt::join(preset_names(), ", ")),
                name.empty() ? std::string_view("nothing") : name);
  }
  return *preset;
}

void check_layers(const ModelSpec& spec) {
  const std::string text = to_text(spec);
  const auto check = [&](std::string_view key, int64_t value) {
    if (value < 0 || value > kMostLayers) {
      throw Error(subject(text, key), fmt::format("0 to {} layers", kMostLayers), fmt::format("{}", value));
    }
  };
  check("dense", spec.dense_layers);
  check("moe", spec.moe_layers);
  const int64_t layers = spec.dense_layers + spec.moe_layers;
  if (layers < 1 || layers > kMostLayers) {
    throw Error(subject(text, "dense + moe"), fmt::format("1 to {} layers", kMostLayers),
                fmt::format("{}", layers));
  }
}

/// The router's groups are the preset's: experts must fill them, and those kept must hold a token's choice.
void check_experts(const ModelSpec& spec, const cpu::RouterParams& router) {
  const int64_t of_kept = (router.experts_used + router.groups_used - 1) / router.groups_used;
  const int64_t fewest =
      router.groups * std::max<int64_t>(2, of_kept);  // a group's score is that of its two best
  if (router.experts < fewest || router.experts > kMostExperts || router.experts % router.groups != 0) {
    throw Error(subject(to_text(spec), "experts"),
                fmt::format("a multiple of {} from {} to {}", router.groups, fewest, kMostExperts),
                fmt::format("{}", router.experts));
  }
}

}  // namespace

std::string_view preset_name(Preset preset) {
  switch (preset) {
    case Preset::kDeepSeekV32:
      return "deepseek-v3.2";
    case Preset::kTiny:
      return "tiny";
  }
  return {};
}

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names(kPresets.size());
  std::transform(kPresets.begin(), kPresets.end(), names.begin(), preset_name);
  return names;
}

std::optional<Preset> preset_from_name(std::string_view name) {
  const auto* const found = std::find_if(kPresets.begin(), kPresets.end(),
                                         [name](Preset preset) { return preset_name(preset) == name; });
  return found == kPresets.end() ? std::nullopt : std::optional(*found);
}

bool can_generate(DType dtype) {
  return std::find(kTypes.begin(), kTypes.end(), dtype) != kTypes.end();
}

std::string generated_type_names() {
  std::array<std::string, kTypes.size()> names;
  std::transform(kTypes.begin(), kTypes.end(), names.begin(), lower_name);
  return fmt::format("{}", fmt::join(names, ", "));
}

bool is_model_spec(std::string_view text) {
  return text.starts_with(kPrefix);
}

ModelSpec parse_model_spec(std::string_view text) {
  if (!is_model_spec(text)) {
    throw Error(text, fmt::format("a text that begins with {}", kPrefix), "another beginning");
  }
  const std::vector<std::string_view> parts = split_at_commas(text.substr(kPrefix.size()));
  ModelSpec spec;
  spec.preset = parse_preset(text, parts.front());
  std::set<std::string_view> seen;
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t equals = parts[i].find('=');
    if (equals == std::string_view::npos) {
      throw Error(text, "KEY=VALUE after each comma", parts[i].empty() ? "nothing" : parts[i]);
    }
    const Setting setting{text, parts[i].substr(0, equals), parts[i].substr(equals + 1)};
    if (!seen.insert(setting.key).second)
      throw Error(subject(text, setting.key), "this key once", "it twice");
    apply(setting, spec);
  }
  static_cast<void>(config_of(spec));  // refuses numbers that do not go together
  return spec;
}

std::string to_text(const ModelSpec& spec) {
  std::string text = fmt::format("{}{},dense={},moe={},type={},dense_type={},seed={}", kPrefix,
                                 preset_name(spec.preset), spec.dense_layers, spec.moe_layers,
                                 lower_name(spec.type), lower_name(spec.dense_type), spec.seed);
  if (spec.experts) text += fmt::format(",experts={}", *spec.experts);
  return text;
}

ModelConfig config_of(const ModelSpec& spec) {
  check_layers(spec);
  ModelConfig config = preset_config(spec.preset);
  config.layers = spec.dense_layers + spec.moe_layers;
  config.dense_layers = spec.dense_layers;
  config.router.experts = spec.experts.value_or(config.router.experts);
  check_experts(spec, config.router);
  config.name = fmt::format("synthetic {} {}+{} seed {}", preset_name(spec.preset), spec.dense_layers,
                            spec.moe_layers, spec.seed);
  config.check(to_text(spec));
  return config;
}

}  // namespace sluice::synth
