// Which synthetic model: a preset's dimensions with so many layers, in such types, from such a seed; and its
// text form, which stands where a model file's path may stand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model_config.h"
#include "quant/dtype.h"

namespace sluice::synth {

enum class Preset {
  kDeepSeekV32,  // the dimensions of DeepSeek-V3.2
  kTiny,         // the same architecture, small: every row is a multiple of 64 elements
};

/// "deepseek-v3.2", "tiny".
std::string_view preset_name(Preset preset);
/// Names of all presets.
std::vector<std::string_view> preset_names();
std::optional<Preset> preset_from_name(std::string_view name);

/// The types that rows can be generated in: BF16, Q8_0, NVFP4, Q4_K.
bool can_generate(quant::DType dtype);
/// "bf16, q8_0, nvfp4, q4_k", for help texts and errors.
std::string generated_type_names();

struct ModelSpec {
  Preset preset = Preset::kDeepSeekV32;
  int64_t dense_layers = 1;
  int64_t moe_layers = 2;
  quant::DType type = quant::DType::kQ8_0;        // of the routed experts
  quant::DType dense_type = quant::DType::kQ8_0;  // of every other matrix that may be quantized
  uint64_t seed = 1;
  std::optional<int64_t> experts = {};  // per MoE layer; empty = the preset's

  bool operator==(const ModelSpec&) const = default;
};

/// True for a text that begins with "synth:".
bool is_model_spec(std::string_view text);

/// "synth:PRESET[,dense=N][,moe=N][,type=T][,dense_type=T][,seed=N][,experts=N]" in any order, each key once.
/// Throws Error naming the key, what was expected and what was found.
ModelSpec parse_model_spec(std::string_view text);

/// The text that parse_model_spec reads, with every key.
std::string to_text(const ModelSpec& spec);

/// The model's dimensions; its name says that it is synthetic. Throws Error naming the key when a number is
/// out of its range.
ModelConfig config_of(const ModelSpec& spec);

}  // namespace sluice::synth
